"""Which policy a request gets, what the application learns of its attempt, and who claims where several could."""

import json
from collections.abc import Iterable
from typing import Any
from wsgiref.validate import validator

import pytest
from flask import Flask, Response, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from flask_idempotency import Idempotency, IdempotencyMiddleware, Policy
from flask_idempotency.engine.attempt import Attempt
from flask_idempotency.engine.clock import now
from flask_idempotency.engine.events import Event, Outcome
from flask_idempotency.engine.policy import PolicyError
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import MemoryStore
from tests.wsgi.harness import TEXT, Harness


def hello(environ: Any, start: Any) -> Iterable[bytes]:
    start("200 OK", [TEXT])
    return [b"hello"]


def test_a_policy_by_path_or_none() -> None:
    policies = {
        "/payments": Policy(keep="all", header="X-Payment"),
        "/orders": Policy(required=False, methods=("POST", "PUT")),
    }

    def middleware(app: Any) -> Any:
        return IdempotencyMiddleware(
            app, store=MemoryStore(), policy=lambda environ: policies.get(environ["PATH_INFO"])
        )

    server = Harness(hello, middleware=middleware)
    assert server.ask(PATH_INFO="/payments", key="k").problem == "idempotency-key-missing"
    for _ in range(2):
        assert server.ask(PATH_INFO="/payments", key=None, HTTP_X_PAYMENT="p").code == 200
    assert server.runs == 1
    for _ in range(2):
        assert server.ask(PATH_INFO="/orders", key="o", method="PUT").code == 200
    assert server.runs == 2
    for _ in range(2):
        assert server.ask(PATH_INFO="/orders", key=None).code == 200
        assert server.ask(PATH_INFO="/elsewhere", key="e").code == 200
    assert server.runs == 6


def test_a_policy_of_none_leaves_the_environ_and_the_answer_alone() -> None:
    chunks = [b"x"]
    seen: list[Any] = []

    def app(environ: Any, start: Any) -> Any:
        seen.append(dict(environ))
        start("200 OK", [TEXT])
        return chunks

    def middleware(app: Any) -> Any:
        return IdempotencyMiddleware(app, store=MemoryStore(), policy=lambda environ: None)

    server = Harness(app, middleware=middleware, inner=False, outer=False)
    environ = server.environ()
    before = dict(environ)
    assert server.served(environ, lambda *head: None) is chunks
    assert seen == [before]


def test_a_policy_that_cannot_be_told_is_an_error_and_no_claim() -> None:
    def policy(environ: Any) -> Any:
        raise KeyError("tenant")

    def middleware(app: Any) -> Any:
        return IdempotencyMiddleware(app, store=MemoryStore(), policy=policy)

    server = Harness(hello, middleware=middleware)
    with pytest.raises(KeyError):
        server.ask()
    assert server.runs == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("policy", {"lease": 5}), ("policy", "strict"), ("namespace", None), ("namespace", 5), ("store", "memory://")],
)
def test_what_is_no_policy_no_namespace_or_no_store_is_an_error_where_it_is_written(option: str, value: Any) -> None:
    options: dict[str, Any] = {"store": MemoryStore(), option: value}
    with pytest.raises(PolicyError, match=f"{option} must be"):
        IdempotencyMiddleware(hello, **options)


@pytest.mark.parametrize("option", ["atomic", "keep_request"])
def test_options_that_only_the_extension_fulfils_are_errors_where_they_are_written(option: str) -> None:
    policy = Policy(on_lapse="refuse", **{option: True})  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match=option):
        IdempotencyMiddleware(hello, store=MemoryStore(), policy=policy)

    def middleware(app: Any) -> Any:
        return IdempotencyMiddleware(app, store=MemoryStore(), policy=lambda environ: policy)

    server = Harness(hello, middleware=middleware)
    with pytest.raises(PolicyError, match=option):
        server.ask()
    assert server.runs == 0


@pytest.mark.parametrize("size", [10, 300_000])
def test_where_the_store_cannot_be_reached_the_request_runs_whole_or_is_refused(size: int) -> None:
    class Away(MemoryStore):
        def claim(self, *arguments: Any, **options: Any) -> Any:
            """See `Store.claim`."""
            raise StoreUnavailable("away")

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        assert "flask_idempotency.attempt" not in environ
        start("200 OK", [TEXT])
        return [environ["wsgi.input"].read(size)]

    for on_store_error in ("run", "refuse"):
        policy = Policy(on_store_error=on_store_error)
        made = IdempotencyMiddleware(validator(app), store=Away(), policy=policy)
        server = Harness(app, middleware=lambda app, made=made: made)
        answer = server.ask(body=b"x" * size)
        if on_store_error == "run":
            assert (answer.code, answer.body) == (200, b"x" * size)
        else:
            assert (answer.code, answer.problem) == (503, "store-unavailable")
            assert int(dict(answer.headers)["Retry-After"]) > 0


def test_the_application_finds_its_attempt_in_the_environ() -> None:
    attempts: list[Any] = []

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        attempts.append(environ.get("flask_idempotency.attempt"))
        start("200 OK" if len(attempts) > 1 else "500 Oops", [TEXT])
        return [b"hello"]

    server = Harness(app, required=False)
    server.ask(key='"8e03978e"')
    server.ask(key="8e03978e")
    server.ask(key=None)
    first, second, none = attempts
    assert isinstance(first, Attempt)
    assert isinstance(second, Attempt)
    assert (first.key, first.number, first.lapsed) == ("8e03978e", 1, False)
    assert (second.key, second.number, second.lapsed) == ("8e03978e", 2, False)
    assert none is None


def test_an_attempt_after_a_lapsed_one_tells_so(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[Any] = []

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        attempts.append(environ["flask_idempotency.attempt"])
        if len(attempts) == 1:
            raise SystemExit
        start("200 OK", [TEXT])
        return [b"hello"]

    server = Harness(app, inner=False, lease=100)
    with pytest.raises(SystemExit):
        server.ask()
    assert server.ask().problem == "request-in-progress"
    later = now() + 101
    monkeypatch.setattr("flask_idempotency.engine.clock.now", lambda: later)
    assert server.ask(body=b"another").problem == "idempotency-key-reused"
    assert server.ask().code == 200
    assert [(attempt.number, attempt.lapsed) for attempt in attempts] == [(1, False), (2, True)]


def test_the_application_makes_its_own_request_of_the_environ() -> None:
    """Werkzeug would find ours in it, of another class and with another's limits."""

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        assert "werkzeug.request" not in environ
        start("200 OK", [TEXT])
        return [b"hello"]

    server = Harness(app, principal=lambda request: request.headers["User-Agent"])
    assert server.ask(HTTP_USER_AGENT="me").code == 200


PAGE = "/.well-known/idempotency"


@pytest.mark.parametrize("accept", ["text/html", "application/json", "*/*", ""])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_policy_page_is_served_in_the_form_that_is_asked_for(method: str, accept: str) -> None:
    server = Harness(hello, retention=3600, docs_path=PAGE)
    page = server.ask(method=method, key=None, PATH_INFO=PAGE, HTTP_ACCEPT=accept)
    content_type = dict(page.headers)["Content-Type"]
    assert (page.code, server.runs) == (200, 0)
    if accept == "application/json":
        assert content_type == "application/json"
        assert method == "HEAD" or json.loads(page.body)["policies"][0]["retention_seconds"] == 3600
    else:
        assert content_type.startswith("text/html")
        assert method == "HEAD" or b"3600" in page.body
    assert method == "GET" or page.body == b""


@pytest.mark.parametrize("policy", [None, Policy(), Policy(methods=("GET", "POST"))])
def test_the_page_is_served_where_each_request_has_a_policy_of_its_own(policy: Policy | None) -> None:
    def middleware(app: Any) -> Any:
        return IdempotencyMiddleware(app, store=MemoryStore(), policy=lambda environ: policy, docs_path=PAGE)

    server = Harness(hello, middleware=middleware)
    page = server.ask(method="GET", key=None, PATH_INFO=PAGE, HTTP_ACCEPT="application/json")
    document = json.loads(page.body)
    assert len(document["policies"]) == (policy is not None)
    assert document["problems"]


def test_the_link_of_a_problem_leads_to_the_page_below_the_mount() -> None:
    made = IdempotencyMiddleware(hello, store=MemoryStore(), docs_path=PAGE)
    mount = "/shop é".encode().decode("latin-1")  # as PEP 3333 has it
    client = Client(DispatcherMiddleware(hello, {mount: made}))
    refused = client.post("/shop é/orders")
    link = refused.headers["Link"]
    assert link == f'</shop%20%C3%A9{PAGE}>; rel="describedby"'
    page = client.get(link[1 : link.index(">")])
    assert page.status_code == 200
    assert b"Idempotency policy" in page.data


@pytest.mark.parametrize(
    ("docs", "link"),
    [
        ({}, "https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/"),
        ({"docs_path": "/rules"}, "/rules"),
        ({"docs_url": "https://example.com/rules"}, "https://example.com/rules"),
        ({"docs_url": "/by-hand", "docs_path": "/rules"}, "/by-hand"),
    ],
)
def test_the_page_is_served_when_asked_to_and_the_link_leads_there(docs: dict[str, str], link: str) -> None:
    server = Harness(hello, **docs)
    assert server.ask(method="GET", key=None, PATH_INFO=PAGE).body == b"hello"
    assert (b"policy" in server.ask(method="GET", key=None, PATH_INFO="/rules").body) == ("docs_path" in docs)
    assert dict(server.ask(key=None).headers)["Link"] == f'<{link}>; rel="describedby"'


def test_another_method_on_the_page_is_a_request_like_any_other() -> None:
    server = Harness(hello, docs_path=PAGE)
    assert server.ask(key=None, PATH_INFO=PAGE).problem == "idempotency-key-missing"
    assert server.ask(method="DELETE", key=None, PATH_INFO=PAGE).body == b"hello"


def make_flask(runs: list[str], store: Any, observers: Any) -> Flask:
    app = Flask(__name__)
    idempotency = Idempotency(app, store=store, observers=observers)

    @app.post("/orders")
    @idempotency.view(retention=60)
    def order() -> Any:
        runs.append(request.get_data(as_text=True))
        assert idempotency.attempt is request.environ["flask_idempotency.attempt"]
        response = Response(f"run {len(runs)}", status=201)
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    @app.post("/plain")
    def plain() -> str:
        runs.append(request.get_data(as_text=True))
        return "plain"

    return app


@pytest.mark.parametrize("path", ["/orders", "/plain"])
@pytest.mark.parametrize("one_store", [True, False])
def test_middleware_and_extension_on_one_application_claim_once(path: str, one_store: bool) -> None:
    runs: list[str] = []
    told: list[Event] = []
    outer = MemoryStore()
    app = make_flask(runs, outer if one_store else MemoryStore(), [told.append])
    app.wsgi_app = IdempotencyMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, store=outer, policy=Policy(keep_cookies=True), observers=[told.append]
    )
    client = app.test_client(use_cookies=False)
    first, again = (client.post(path, data="book", headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.data, first.status_code) == (again.data, again.status_code)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert first.headers.getlist("Set-Cookie") == again.headers.getlist("Set-Cookie")
    assert len(first.headers.getlist("Set-Cookie")) == (2 if path == "/orders" else 0)
    assert runs == ["book"]
    assert [event.outcome for event in told] == [Outcome.CLAIMED, Outcome.COMPLETED, Outcome.REPLAYED]
    reused = client.post(path, data="pen", headers={"Idempotency-Key": "k"})
    assert reused.status_code == 422


@pytest.mark.parametrize("one_store", [True, False])
@pytest.mark.parametrize("depth", [2, 3])
def test_middlewares_around_each_other_claim_once(depth: int, one_store: bool) -> None:
    told: list[Event] = []
    store = MemoryStore()

    def middleware(app: Any) -> Any:
        for _ in range(depth):
            app = IdempotencyMiddleware(app, store=store if one_store else MemoryStore(), observers=[told.append])
        return app

    server = Harness(hello, middleware=middleware)
    first, again = server.ask(), server.ask()
    assert (first.body, again.body, again.replayed, server.runs) == (b"hello", b"hello", True, 1)
    assert [event.outcome for event in told] == [Outcome.CLAIMED, Outcome.COMPLETED, Outcome.REPLAYED]


def test_an_inner_middleware_takes_what_the_outer_one_leaves_alone() -> None:
    def middleware(app: Any) -> Any:
        inner = IdempotencyMiddleware(app, store=MemoryStore(), policy=Policy(methods=("PUT",)))
        return IdempotencyMiddleware(inner, store=MemoryStore(), policy=Policy(methods=("POST",)))

    server = Harness(hello, middleware=middleware)
    for method in ("POST", "PUT"):
        assert [server.ask(method=method).replayed for _ in range(2)] == [False, True]
    assert server.runs == 2


def test_an_application_that_asks_itself_under_the_same_environ_is_one_attempt() -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/":
            return server.middleware(environ | {"PATH_INFO": "/inner"}, start)
        start("200 OK", [TEXT])
        return [b"inner"]

    server = Harness(app, inner=False)
    assert [server.ask().body for _ in range(2)] == [b"inner", b"inner"]
    assert server.runs == 2  # one for each path, of the first request alone


def test_an_application_that_is_asked_again_after_a_failure_is_under_a_claim_again() -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        if server.runs == 1:
            raise ConnectionError
        start("200 OK", [TEXT])
        return [b"done"]

    def middleware(app: Any) -> Any:
        once = IdempotencyMiddleware(app, store=MemoryStore())

        def retrying(environ: Any, start: Any) -> Any:
            try:
                return once(environ, start)
            except ConnectionError:
                return once(environ, start)

        return retrying

    server = Harness(app, middleware=middleware, inner=False)
    assert [server.ask().replayed for _ in range(2)] == [False, True]
    assert server.runs == 2


def test_a_method_in_small_letters_is_that_method() -> None:
    app = Flask(__name__)
    runs: list[None] = []
    app.add_url_rule("/", "x", lambda: str(runs.append(None)), methods=["PATCH"])
    server = Harness(app.wsgi_app, inner=False, outer=False)  # the validator warns of such methods
    assert server.ask(method="patch", key=None).problem == "idempotency-key-missing"
    assert [server.ask(method="patch").replayed for _ in range(2)] == [False, True]
    assert len(runs) == 1


def test_a_client_cannot_pretend_to_be_in_an_attempt() -> None:
    server = Harness(hello)
    assert server.ask(key=None, HTTP_FLASK_IDEMPOTENCY_ATTEMPT="1").problem == "idempotency-key-missing"

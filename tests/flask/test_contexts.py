"""What else has the request's context or its environ: threads, other applications, whoever asks again."""

import gc
import threading
import weakref
from io import BytesIO
from typing import Any

import pytest
from flask import Response, copy_current_request_context, request, request_started

from tests.flask.apps import make_app, post, slug


@pytest.mark.parametrize("where", ["thread", "same thread"])
def test_a_copy_of_the_context_that_ends_before_the_view_gives_nothing_back(where: str) -> None:
    app, _ = make_app()
    meanwhile = []

    @app.post("/x")
    def view() -> str:
        aside = copy_current_request_context(lambda: request.path)
        if where == "thread":
            thread = threading.Thread(target=aside)
            thread.start()
            thread.join()
        else:
            aside()
        meanwhile.append(slug(post(app)))
        return f"run {len(meanwhile)}"

    first, again = post(app), post(app)
    assert meanwhile == ["request-in-progress"]
    assert (first.text, again.text) == ("run 1", "run 1")


def test_a_copy_of_the_context_that_outlives_the_request_changes_nothing() -> None:
    app, _ = make_app()
    answered = threading.Event()
    threads = []

    @app.post("/x")
    def view() -> str:
        threads.append(threading.Thread(target=copy_current_request_context(lambda: answered.wait(30))))
        threads[0].start()
        return "done"

    post(app)
    answered.set()
    threads[0].join()
    assert post(app).headers["Idempotent-Replayed"] == "true"
    assert len(threads) == 1


@pytest.mark.parametrize("decorated", [False, True])
def test_a_view_that_asks_another_under_its_environ_is_kept_with_its_own_answer(decorated: bool) -> None:
    app, idempotency = make_app()
    runs = []

    @app.post("/x")
    def outer() -> str:
        runs.append("outer")
        return "outer, " + Response.from_app(app, request.environ | {"PATH_INFO": "/inner"}).get_data(as_text=True)

    def inner() -> str:
        runs.append("inner")
        return "inner"

    app.add_url_rule(
        "/inner", view_func=idempotency.view(retention=60)(inner) if decorated else inner, methods=["POST"]
    )
    assert [post(app).text for _ in range(2)] == ["outer, inner", "outer, inner"]
    assert runs == ["outer", "inner"]


def test_an_application_that_is_asked_by_the_view_of_another_leaves_the_end_to_that() -> None:
    (app, _), (legacy, _) = make_app(), make_app()
    runs: list[None] = []
    app.add_url_rule("/x", "x", lambda: Response.from_app(legacy, request.environ), methods=["POST"])
    legacy.add_url_rule("/x", "x", lambda: f"run {len(runs)}{runs.append(None) or ''}", methods=["POST"])
    assert [post(app).text for _ in range(2)] == ["run 0", "run 0"]
    assert len(runs) == 1


def test_a_middleware_that_asks_again_after_a_failure_is_under_a_claim_again() -> None:
    app, _ = make_app()
    app.config["PROPAGATE_EXCEPTIONS"] = True
    runs: list[None] = []

    @app.post("/x")
    def view() -> str:
        runs.append(None)
        if len(runs) == 1:
            raise ConnectionError
        return "done"

    once = app.wsgi_app

    def retrying(environ: Any, start_response: Any) -> Any:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        while True:
            environ["wsgi.input"] = BytesIO(body)
            try:
                return once(environ, start_response)
            except ConnectionError:
                continue

    app.wsgi_app = retrying  # type: ignore[method-assign]
    assert [post(app, data=b"one").text for _ in range(2)] == ["done", "done"]
    assert len(runs) == 2


@pytest.mark.parametrize("sent", [b"bytes", {"field": "value"}])
def test_whoever_hears_that_a_request_has_started_may_read_its_body(sent: Any) -> None:
    app, _ = make_app()
    app.add_url_rule("/x", "x", lambda: request.form.to_dict() or request.get_data(), methods=["POST"])

    def monitor(_: Any, **__: Any) -> None:
        assert request.form or request.get_data()

    with request_started.connected_to(monitor, app):
        heard = [post(app, data=sent) for _ in range(2)]
    assert [answer.status_code for answer in heard] == [200, 200]
    assert heard[0].data == b"bytes" or heard[0].json == {"field": "value"}
    assert heard[1].headers["Idempotent-Replayed"] == "true"


def test_a_response_class_that_asks_for_a_body_makes_replays_and_refusals_too() -> None:
    app, _ = make_app()

    class Sniffing(Response):
        def __init__(self, response: Any, *args: Any, **options: Any) -> None:
            if isinstance(response, str) and response.startswith("<?xml"):
                options["mimetype"] = "application/xml"
            super().__init__(response, *args, **options)

    app.response_class = Sniffing
    app.add_url_rule("/x", "x", lambda: "<?xml?>", methods=["POST"])
    first, again = post(app), post(app)
    assert first.mimetype == again.mimetype == "application/xml"
    assert again.headers["Idempotent-Replayed"] == "true"
    assert slug(post(app, data=b"other")) == "idempotency-key-reused"


def test_functions_that_are_decorated_within_requests_go_with_them() -> None:
    app, idempotency = make_app()
    decorated: list[weakref.ref[Any]] = []

    @app.post("/x")
    @idempotency.exempt
    def view() -> Any:
        done = idempotency.view(retention=60)(lambda: "done")
        decorated.append(weakref.ref(done))
        return done()

    assert [post(app, key=str(number)).status_code for number in range(20)] == [200] * 20
    gc.collect()
    assert [found() for found in decorated] == [None] * 20

"""What is Flask's own: factories, blueprints, class-based and async views, decorators, signals, configuration."""

import asyncio
import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Blueprint, Flask, jsonify, request, send_file
from flask.views import MethodView, View

from flask_idempotency import Idempotency, IdempotencyMiddleware, Policy
from flask_idempotency.engine.events import Event
from flask_idempotency.engine.policy import OPTIONS, VIEW_OPTIONS, PolicyError
from flask_idempotency.extension import signals
from flask_idempotency.stores import MemoryStore

KEY = {"Idempotency-Key": "k"}


class Counter:
    """A view that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> Any:
        self.runs += 1
        return jsonify(run=self.runs), 201


def make(config: dict[str, Any] | None = None, **options: Any) -> tuple[Flask, Idempotency]:
    app = Flask(__name__)
    app.config.update(config or {})
    return app, Idempotency(app, **({"store": MemoryStore()} | options))


def post(app: Flask, path: str, **more: Any) -> Any:
    return app.test_client().post(path, headers=KEY, **more)


def test_one_extension_serves_several_applications_each_with_its_own_records(tmp_path: Any) -> None:
    idempotency = Idempotency()
    counters = []
    apps = []
    for name in ("a", "b"):
        app = Flask(name, instance_path=str(tmp_path / name))
        app.config["IDEMPOTENCY_REQUIRED"] = name == "a"
        idempotency.init_app(app)
        counters.append(Counter())
        app.add_url_rule("/", "index", counters[-1], methods=["POST"])
        apps.append(app)
    for app in (*apps, *apps):
        assert post(app, "/").json == {"run": 1}
    assert [app.test_client().post("/").status_code for app in apps] == [400, 201]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_installing_twice_is_an_error() -> None:
    app, idempotency = make()
    with pytest.raises(RuntimeError, match="already installed"):
        idempotency.init_app(app)


def test_what_is_not_routed_stays_what_it_is() -> None:
    app, _ = make()
    app.add_url_rule("/only-get", "get", lambda: "ok")
    client = app.test_client()
    assert [client.post(path).status_code for path in ("/nowhere", "/only-get")] == [404, 405]
    assert [client.post(path, headers=KEY).status_code for path in ("/nowhere", "/only-get")] == [404, 405]


def test_the_decorator_gives_a_view_options_of_its_own() -> None:
    app, idempotency = make()
    optional, plain = Counter(), Counter()

    @app.post("/optional")
    @idempotency.view(required=False)
    def optional_view() -> Any:
        return optional()

    @app.post("/plain")
    @idempotency.view
    def plain_view() -> Any:
        return plain()

    client = app.test_client()
    assert [client.post("/optional").status_code for _ in range(2)] == [201, 201]
    assert client.post("/plain").status_code == 400
    assert [post(app, "/plain").json["run"] for _ in range(2)] == [1, 1]
    assert optional.runs == 2


def test_a_decorator_without_wraps_above_ours_does_not_lose_the_options() -> None:
    app, idempotency = make()
    runs = Counter()

    def careless(view: Any) -> Any:
        return lambda *args, **kwargs: view(*args, **kwargs)

    view = careless(idempotency.view(keep="all")(lambda: (runs()[0], 402)))
    app.add_url_rule("/", "index", view, methods=["POST"])
    assert [post(app, "/").json["run"] for _ in range(2)] == [1, 1]


def test_our_decorator_runs_after_those_above_it_on_a_replay_too() -> None:
    app, idempotency = make()

    def login_required(view: Any) -> Any:
        @functools.wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            return view(*args, **kwargs) if request.headers.get("X-In") else ("out", 401)

        return checked

    runs = Counter()

    @app.post("/")
    @login_required
    @idempotency.view()
    def index() -> Any:
        return runs()

    client = app.test_client()
    inside = KEY | {"X-In": "1"}
    assert [client.post("/", headers=headers).status_code for headers in (KEY, inside, inside, KEY)] == [
        401,
        201,
        201,
        401,
    ]
    assert runs.runs == 1


def test_views_classes_and_blueprints_can_be_exempt() -> None:
    app, idempotency = make()

    @idempotency.exempt
    class Exempt(MethodView):
        def post(self) -> str:
            return "class"

    class Half(MethodView):
        @idempotency.exempt
        def post(self) -> str:
            return "half"

        def patch(self) -> str:
            return "other half"

    outer, inner = Blueprint("outer", __name__), Blueprint("inner", __name__)
    inner.add_url_rule("/inner", "view", lambda: "inner", methods=["POST"])
    outer.register_blueprint(idempotency.exempt(inner))
    outer.add_url_rule("/outer", "view", lambda: "outer", methods=["POST"])
    app.register_blueprint(outer)
    app.add_url_rule("/function", "function", idempotency.exempt(lambda: "function"), methods=["POST"])
    app.add_url_rule("/class", view_func=Exempt.as_view("class"))
    app.add_url_rule("/half", view_func=Half.as_view("half"))
    client = app.test_client()
    assert {path: client.post(path).status_code for path in ("/inner", "/outer", "/function", "/class", "/half")} == {
        "/inner": 200, "/outer": 400, "/function": 200, "/class": 200, "/half": 200,
    }  # fmt: skip
    assert client.patch("/half").status_code == 400


def test_class_based_views_can_be_decorated_whole_or_by_method() -> None:
    app, idempotency = make(policy=Policy(methods=()))
    whole, one = Counter(), Counter()

    class Whole(View):
        methods = ["POST"]
        decorators = [idempotency.view()]

        def dispatch_request(self) -> Any:
            return whole()

    class One(MethodView):
        @idempotency.view()
        def post(self) -> Any:
            return one()

        def patch(self) -> Any:
            return one()

    app.add_url_rule("/whole", view_func=Whole.as_view("whole"))
    app.add_url_rule("/one", view_func=One.as_view("one"))
    for path in ("/whole", "/one"):
        answers = [app.test_client().post(path, headers={"Idempotency-Key": path}).json for _ in range(2)]
        assert answers == [{"run": 1}] * 2
        assert app.test_client().post(path).status_code == 400
    assert app.test_client().patch("/one").json == {"run": 2}


def test_async_views_are_covered_by_hooks_and_decorator() -> None:
    app, idempotency = make()
    runs = Counter()

    async def view() -> Any:
        await asyncio.sleep(0)
        return runs()

    app.add_url_rule("/hooks", "hooks", view, methods=["POST"])
    app.add_url_rule("/decorator", "decorator", idempotency.view(lease=10)(view), methods=["POST"])
    for path, run in (("/hooks", 1), ("/decorator", 2)):
        answers = [app.test_client().post(path, headers={"Idempotency-Key": path}).json for _ in range(2)]
        assert answers == [{"run": run}] * 2


def test_a_webhook_takes_its_key_from_the_event() -> None:
    app, idempotency = make()
    runs = Counter()

    @app.post("/events")
    @idempotency.view(key_from=lambda: request.get_json()["id"])
    def event() -> Any:
        return jsonify(run=runs()[0].json["run"], event=request.get_json())

    client = app.test_client()
    answers = [client.post("/events", json={"id": "evt_1", "n": 1}).json for _ in range(2)]
    assert answers == [{"run": 1, "event": {"id": "evt_1", "n": 1}}] * 2
    assert client.post("/events", json={"n": 1}).status_code == 400


def test_the_attempt_tells_key_and_number() -> None:
    app, idempotency = make(policy=Policy(required=False))
    seen = []

    @app.post("/")
    def index() -> str:
        attempt = idempotency.attempt
        seen.append(attempt and (attempt.key, attempt.number, attempt.lapsed))
        return "ok"

    app.test_client().post("/")
    app.test_client().post("/", headers={"Idempotency-Key": '"secret key"'})
    assert seen == [None, ("secret key", 1, False)]
    assert idempotency.attempt is None
    with app.test_request_context("/"):
        assert idempotency.attempt is None


def test_a_hook_that_fails_after_the_answer_was_kept_does_not_lose_it() -> None:
    app, _ = make()
    runs = Counter()
    broken = True

    @app.after_request
    def spoil(response: Any) -> Any:
        if broken:
            raise ValueError
        return response

    app.add_url_rule("/", "index", runs, methods=["POST"])
    assert post(app, "/").status_code == 500
    broken = False
    assert post(app, "/").json == {"run": 1}
    assert runs.runs == 1


def test_an_error_handler_may_make_a_success_that_is_kept() -> None:
    app, _ = make()
    runs = Counter()

    @app.errorhandler(ZeroDivisionError)
    def handle(error: ZeroDivisionError) -> Any:
        return "handled", 200

    def view() -> Any:
        runs()
        raise ZeroDivisionError

    app.add_url_rule("/", "index", view, methods=["POST"])
    assert [post(app, "/").text for _ in range(2)] == ["handled", "handled"]
    assert runs.runs == 1


def test_being_torn_off_leaves_the_claim_to_lapse() -> None:
    app, _ = make()
    app.add_url_rule("/", "index", lambda: (_ for _ in ()).throw(SystemExit), methods=["POST"])
    with pytest.raises(SystemExit):
        post(app, "/")
    assert post(app, "/").status_code == 409


def test_a_small_file_is_kept_and_a_large_one_is_sent(tmp_path: Any) -> None:
    app, _ = make(policy=Policy(max_response_bytes=1000))
    (tmp_path / "small").write_bytes(b"s" * 1000)
    (tmp_path / "large").write_bytes(b"l" * 1001)
    app.add_url_rule("/<name>", "file", lambda name: send_file(tmp_path / name, mimetype="x/y"), methods=["POST"])
    assert [post(app, "/small").data for _ in range(2)] == [b"s" * 1000] * 2
    client = app.test_client()
    answers = [client.post("/large", headers={"Idempotency-Key": "l"}) for _ in range(2)]
    assert (answers[0].data, answers[1].status_code) == (b"l" * 1001, 409)


def test_signals_tell_what_happened() -> None:
    app, _ = make()
    app.add_url_rule("/", "index", lambda: "ok", methods=["POST"])
    heard: list[tuple[Any, Event]] = []

    def hear(sender: Any, event: Event) -> None:
        heard.append((sender, event))

    with signals.claimed.connected_to(hear), signals.replayed.connected_to(hear):
        post(app, "/")
        post(app, "/")
    assert [(sender, event.outcome.value) for sender, event in heard] == [(app, "claimed"), (app, "replayed")]
    with pytest.raises(AttributeError):
        _ = signals.nonsense


WRONG = {
    "lease": [0, -1, "30", True, float("inf"), None],
    "max_run": [0, -1, "long", True],
    "max_waiters": [-1, 1.5, "4", True],
    "spool_bytes": [-1, 1.5, "1 MiB", True],
    "retention": [0, -1, "day", timedelta(0)],
    "wait": [-1, "long"],
    "max_response_bytes": [-1, 1.5, "1 MiB", True],
    "methods": ["POST", 7, [7], ["PO ST"]],
    "required": ["yes", 1],
    "strict": [None],
    "atomic": ["yes"],
    "keep": ["failures", 200],
    "keep_request": ["yes"],
    "on_lapse": ["repeat", None],
    "on_error": ["ignore", None],
    "on_completion_error": ["ignore", None],
    "on_conflict": ["ignore"],
    "on_store_error": ["ignore"],
    "fingerprint": ["body", None],
    "header": ["", "Bad Header", 7, "caf\xe9"],
    "principal": ["X-User", [], [7], 7, ["cookie:"], ["a header"]],
    "key_from": ["id"],
    "docs_url": ["docs", 7, "/a b", "/x>", "ftp://docs.example/", "/caf\xe9"],
    "docs_path": ["docs", 7, "/a b", "/x>", "https://docs.example/"],
    "durable_claims": ["yes"],
    "refusal": ["no"],
    "keep_cookies": ["no"],
}


@pytest.mark.parametrize(("option", "value"), [(option, value) for option, values in WRONG.items() for value in values])
def test_a_nonsensical_value_raises_where_it_is_written(option: str, value: Any) -> None:
    _, idempotency = make()
    app = Flask(__name__)
    app.config[f"IDEMPOTENCY_{option.upper()}"] = value
    writes: list[Callable[[], object]] = [lambda: Idempotency(app, store=MemoryStore())]
    if option in OPTIONS:
        writes.append(lambda: Policy(**{option: value}))
    if option in VIEW_OPTIONS:
        writes.append(lambda: idempotency.view(**{option: value}))
    if option in ("docs_url", "docs_path"):
        options: dict[str, Any] = {option: value}
        writes.append(lambda: IdempotencyMiddleware(app.wsgi_app, store=MemoryStore(), **options))
    for write in writes:
        with pytest.raises(PolicyError, match=rf"^{option} must be .*, not ") as raised:
            write()
        assert isinstance(raised.value, ValueError)
        assert isinstance(raised.value, TypeError)


@pytest.mark.parametrize(
    ("option", "value"),
    [("policy", {"lease": 5}), ("policy", "strict"), ("namespace", 5), ("store", "memory://"), ("store", MemoryStore)],
)
def test_what_is_no_policy_no_namespace_or_no_store_raises_where_it_is_written(option: str, value: Any) -> None:
    with pytest.raises(PolicyError, match="(?i)" + option + " must be"):
        make(**{option: value})


def test_a_misspelt_option_raises_where_it_is_written_and_names_the_right_one() -> None:
    _, idempotency = make()
    app = Flask(__name__)
    app.config["IDEMPOTENCY_RETENTON"] = 1
    with pytest.raises(PolicyError, match=r"Did you mean 'retention'.*The options are: "):
        Policy(retenton=1)
    with pytest.raises(PolicyError, match="Did you mean 'retention'"):
        idempotency.view(retenton=1)
    with pytest.raises(PolicyError, match=r"Did you mean 'IDEMPOTENCY_RETENTION'.*IDEMPOTENCY_STORE_URL"):
        Idempotency(app)


def test_durations_may_be_timedeltas() -> None:
    policy = Policy(retention=timedelta(hours=1), lease=timedelta(seconds=5), wait=timedelta(0))
    assert (policy.retention, policy.lease, policy.wait) == (3600.0, 5.0, 0.0)


@pytest.mark.parametrize("option", ["strict", "header", "methods", "max_waiters", "spool_bytes"])
def test_what_is_the_applications_no_view_has_of_its_own(option: str) -> None:
    _, idempotency = make()
    with pytest.raises(PolicyError, match=f"There is no option '{option}'"):
        idempotency.view(**{option: getattr(Policy(), option)})


def test_the_policy_is_given_in_code_or_in_the_configuration_and_not_in_both() -> None:
    with pytest.raises(PolicyError, match="IDEMPOTENCY_LEASE, IDEMPOTENCY_WAIT, too: one place decides"):
        make({"IDEMPOTENCY_LEASE": 20, "IDEMPOTENCY_WAIT": 1}, policy=Policy(retention=99))
    app, _ = make({"IDEMPOTENCY_NAMESPACE": "shop", "IDEMPOTENCY_DOCS_PATH": None}, policy=Policy(retention=99))
    assert app.extensions["idempotency"].policy.retention == 99


@pytest.mark.parametrize(
    "place", [{"policy": Policy(lease=10, wait=1)}, {"config": {"IDEMPOTENCY_LEASE": 10, "IDEMPOTENCY_WAIT": 1}}]
)
def test_the_view_goes_over_the_application_and_that_over_the_defaults(place: dict[str, Any]) -> None:
    app, idempotency = make(**place)
    leases = []
    app.add_url_rule(
        "/", "index", idempotency.view(lease=5)(lambda: str(leases.append(_lease(idempotency)))), methods=["POST"]
    )
    post(app, "/")
    assert leases == [(5, 1, 24 * 60 * 60)]


def _lease(idempotency: Idempotency) -> tuple[float, float, float]:
    assert idempotency.attempt is not None
    policy = idempotency.attempt.policy
    return policy.lease, policy.wait, policy.retention


def test_a_decorated_view_without_the_extension_says_what_is_missing() -> None:
    app = Flask(__name__)
    app.config["TESTING"] = True
    app.add_url_rule("/", "index", Idempotency().view(lambda: "ok"), methods=["POST"])
    with pytest.raises(RuntimeError, match=r"call Idempotency\(app\)"):
        app.test_client().post("/")


def test_the_policy_page_speaks_html_to_people_and_json_to_programs() -> None:
    app, idempotency = make({"IDEMPOTENCY_RETENTION": 3600})
    app.add_url_rule("/reports", "reports", idempotency.view(wait=7)(lambda: "ok"), methods=["POST"])
    client = app.test_client()
    page = client.get("/.well-known/idempotency", headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.content_type == "text/html; charset=utf-8"
    assert "<h1>Idempotency policy</h1>" in page.text
    assert "3600" in page.text
    document = client.get("/.well-known/idempotency", headers={"Accept": "application/json"})
    assert document.headers["Vary"] == "Accept"
    default, reports = document.json["policies"]
    assert (default["paths"], default["retention_seconds"], default["wait_seconds"]) == ("all others", 3600, 0)
    assert (reports["paths"], reports["retention_seconds"], reports["wait_seconds"]) == (["/reports"], 3600, 7)
    problem = {"type": "/.well-known/idempotency#idempotency-key-missing", "status": 400}
    assert problem.items() <= document.json["problems"][0].items()


@pytest.mark.parametrize(
    ("url", "path", "link"),
    [
        (None, "/docs/retries", "/docs/retries"),
        ("https://docs.example/retries", "/retries", "https://docs.example/retries"),
        ("/by-hand", None, "/by-hand"),
        (None, None, "https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/"),
    ],
)
def test_the_policy_page_can_be_moved_and_turned_off(url: str | None, path: str | None, link: str) -> None:
    app, _ = make({"IDEMPOTENCY_DOCS_URL": url, "IDEMPOTENCY_DOCS_PATH": path})
    app.add_url_rule("/", "index", lambda: "ok", methods=["POST"])
    client = app.test_client()
    refused = client.post("/")
    assert refused.headers["Link"] == f'<{link}>; rel="describedby"'
    documented = link if url or path else "urn:flask-idempotency:"
    assert refused.json["type"] == documented + ("#" if url or path else "") + "idempotency-key-missing"
    assert client.get("/.well-known/idempotency").status_code == 404
    if path:
        assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"host_matching": True, "static_host": "shop.example"}, {"host": "api.shop.example"}),
        ({"subdomain_matching": True}, {"subdomain": "api"}),
        ({"subdomain_matching": True}, {}),
    ],
)
def test_the_policy_page_stands_on_each_host_that_links_to_it(options: dict[str, Any], place: dict[str, str]) -> None:
    app = Flask(__name__, **options)
    app.config["SERVER_NAME"] = "shop.example"
    Idempotency(app, store=MemoryStore())
    app.add_url_rule("/", "index", Counter(), methods=["POST"], **place)
    base_url = "http://api.shop.example/" if place else "http://shop.example/"
    client = app.test_client()
    refused = client.post("/", base_url=base_url)
    assert refused.headers["Link"] == '</.well-known/idempotency>; rel="describedby"'
    assert client.get("/.well-known/idempotency", base_url=base_url).status_code == 200


def test_the_link_follows_where_the_application_is_mounted() -> None:
    app, _ = make()
    app.add_url_rule("/", "index", lambda: "ok", methods=["POST"])
    refused = app.test_client().post("/", base_url="http://localhost/shop")
    assert refused.headers["Link"] == '</shop/.well-known/idempotency>; rel="describedby"'

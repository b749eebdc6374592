"""Other extensions and hooks, set up before ours and after: theirs refuse first, and act once on each response."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Blueprint, Flask, Request, Response, abort, g, jsonify, request
from flask_compress import Compress
from flask_cors import CORS
from flask_jwt_extended import JWTManager, create_access_token, get_jwt_identity, jwt_required
from flask_limiter import Limiter
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user
from flask_wtf import CSRFProtect
from flask_wtf.csrf import generate_csrf

from flask_idempotency import Idempotency, Policy
from flask_idempotency.stores import MemoryStore

KEY = {"Idempotency-Key": "k"}


@pytest.fixture(params=["ours first", "theirs first"])
def make(request: pytest.FixtureRequest) -> Callable[..., tuple[Flask, Idempotency]]:
    """An app with another extension, set up before ours and after."""

    def make_app(set_up: Callable[[Flask], object], **policy: Any) -> tuple[Flask, Idempotency]:
        app = Flask(__name__)
        app.config.update(SECRET_KEY="s" * 32, JWT_SECRET_KEY="j" * 32)
        idempotency = Idempotency(store=MemoryStore(), policy=Policy(**policy))
        if request.param == "ours first":
            idempotency.init_app(app)
        set_up(app)
        if request.param == "theirs first":
            idempotency.init_app(app)
        return app, idempotency

    return make_app


class User(UserMixin):
    def __init__(self, name: str) -> None:
        self.id = name


def set_up_login(app: Flask) -> None:
    manager = LoginManager(app)
    manager.user_loader(User)
    app.add_url_rule("/login/<name>", "login", lambda name: str(login_user(User(name))))


def test_flask_login_users_never_hear_each_other_and_anonymous_ones_are_refused(make: Any) -> None:
    app, idempotency = make(set_up_login)
    runs = []

    @app.post("/orders")
    @login_required
    @idempotency.view()
    def order() -> Any:
        runs.append(current_user.id)
        return jsonify(run=len(runs), user=current_user.id), 201

    ada, bob, nobody = (app.test_client() for _ in range(3))
    ada.get("/login/ada")
    bob.get("/login/bob")
    answers = [client.post("/orders", headers=KEY).json for client in (ada, bob, ada, bob)]
    assert answers == [{"run": 1, "user": "ada"}, {"run": 2, "user": "bob"}] * 2
    assert nobody.post("/orders", headers=KEY).status_code == 401
    assert len(runs) == 2


def test_flask_login_users_are_told_apart_by_the_hooks_too(make: Any) -> None:
    app, _ = make(set_up_login)
    runs = []

    @app.post("/orders")
    @login_required
    def order() -> Any:
        runs.append(current_user.id)
        return {"run": len(runs)}

    ada, bob, nobody = (app.test_client() for _ in range(3))
    ada.get("/login/ada")
    bob.get("/login/bob")
    assert [client.post("/orders", headers=KEY).json["run"] for client in (ada, bob, ada, bob)] == [1, 2, 1, 2]
    assert nobody.post("/orders", headers=KEY).status_code == 401


def test_a_jwt_identity_is_the_principal_once_it_is_verified(make: Any) -> None:
    app, _ = make(JWTManager)
    runs = []

    @app.post("/orders")
    @jwt_required()
    def order() -> Any:
        runs.append(get_jwt_identity())
        return {"run": len(runs)}

    def bearer(token: str) -> dict[str, str]:
        return KEY | {"Authorization": f"Bearer {token}"}

    with app.app_context():
        first, refreshed, other = (create_access_token(identity=name) for name in ("ada", "ada", "bob"))
    client = app.test_client()
    assert first != refreshed
    assert client.post("/orders", headers=bearer(first)).json == {"run": 1}
    assert client.post("/orders", headers=bearer(refreshed)).json == {"run": 1}
    assert client.post("/orders", headers=bearer(other)).json == {"run": 2}
    forged = refreshed.rpartition(".")[0] + "." + other.rpartition(".")[2]
    assert client.post("/orders", headers=bearer(forged)).status_code in (401, 422)
    assert client.post("/orders", headers=bearer("nonsense")).status_code in (401, 422)
    assert client.post("/orders", headers=KEY).status_code == 401
    assert runs == ["ada", "bob"]


def test_csrf_refuses_first_and_the_form_that_it_read_reaches_the_view(make: Any) -> None:
    app, _ = make(CSRFProtect)
    app.add_url_rule("/token", "token", generate_csrf)
    runs = []

    @app.post("/orders")
    def order() -> Any:
        runs.append(request.form["item"])
        return jsonify(run=len(runs), item=request.form["item"], body=request.get_data(as_text=True)), 201

    client = app.test_client()
    token = client.get("/token").text
    form = {"item": "book", "csrf_token": token}
    assert client.post("/orders", data={"item": "book"}, headers=KEY).status_code == 400
    first, again = (client.post("/orders", data=form, headers=KEY) for _ in range(2))
    assert (first.status_code, first.json["item"]) == (201, "book")
    assert again.json == first.json
    assert client.post("/orders", data=form | {"item": "pen"}, headers=KEY).status_code == 422
    # A replay does not go round the check.
    assert client.post("/orders", data={"item": "book"}, headers=KEY).status_code == 400
    assert runs == ["book"]


def test_csrf_reads_an_upload_and_the_view_still_gets_it(make: Any) -> None:
    import io

    app, _ = make(CSRFProtect)
    app.add_url_rule("/token", "token", generate_csrf)
    app.add_url_rule("/files", "files", lambda: {"n": len(request.files["f"].read())}, methods=["POST"])
    client = app.test_client()
    token = client.get("/token").text
    for _ in range(2):
        form = {"f": (io.BytesIO(b"x" * 700_000), "a"), "csrf_token": token}
        assert client.post("/files", data=form, headers=KEY).json == {"n": 700_000}


def test_cors_headers_are_made_afresh_for_each_response(make: Any) -> None:
    app, _ = make(lambda app: CORS(app, origins=["https://a.example", "https://b.example"]))
    app.add_url_rule("/orders", "order", lambda: ("ok", 201), methods=["POST"])
    client = app.test_client()
    for origin in ("https://a.example", "https://b.example"):
        answer = client.post("/orders", headers=KEY | {"Origin": origin})
        assert answer.headers.getlist("Access-Control-Allow-Origin") == [origin]
    assert answer.headers["Idempotent-Replayed"] == "true"
    preflight = client.options("/orders", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 200


def test_a_rate_limit_counts_replays_and_its_refusals_are_not_kept(make: Any) -> None:
    def set_up(app: Flask) -> None:
        app.config["RATELIMIT_HEADERS_ENABLED"] = True
        Limiter(lambda: "everybody", app=app, default_limits=["2 per hour"], storage_uri="memory://")

    app, _ = make(set_up)
    runs: list[None] = []
    app.add_url_rule("/orders", "order", lambda: (runs.append(None), "ok")[1], methods=["POST"])
    client = app.test_client()
    answers = [client.post("/orders", headers=KEY) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers.getlist("X-RateLimit-Remaining") for answer in answers[:2]] == [["1"], ["0"]]
    assert len(runs) == 1


def test_each_response_is_compressed_as_its_own_request_accepts(make: Any) -> None:
    def set_up(app: Flask) -> None:
        app.config["COMPRESS_MIN_SIZE"] = 10
        Compress(app)

    app, _ = make(set_up)
    app.add_url_rule("/orders", "order", lambda: jsonify(text="x" * 1000), methods=["POST"])
    client = app.test_client()
    encodings = ["gzip", None, "br", "gzip"]
    heard = []
    for encoding in encodings:
        answer = client.post("/orders", headers=KEY | ({"Accept-Encoding": encoding} if encoding else {}))
        heard.append(answer.headers.get("Content-Encoding"))
        if encoding is None:
            assert answer.json == {"text": "x" * 1000}
    assert heard == encodings


def test_hooks_of_app_and_blueprints_refuse_first_and_act_once_on_each_response(make: Any) -> None:
    outer, inner = Blueprint("outer", __name__, url_prefix="/outer"), Blueprint("inner", __name__, url_prefix="/inner")
    runs = []

    def set_up(app: Flask) -> None:
        for place, name in ((app, "app"), (outer, "outer"), (inner, "inner")):

            def before(name: str = name) -> None:
                if request.headers.get("Refuse") == name:
                    abort(403)

            def after(response: Response, name: str = name) -> Response:
                response.headers.add("X-After", name)
                return response

            place.before_request(before)  # type: ignore[attr-defined]
            place.after_request(after)  # type: ignore[attr-defined]

    app, _ = make(set_up)

    @inner.post("/orders")
    def order() -> Any:
        runs.append(None)
        return "ok", 201

    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    client = app.test_client()
    path = "/outer/inner/orders"
    for name in ("app", "outer", "inner"):
        assert client.post(path, headers=KEY | {"Refuse": name}).status_code == 403
    assert runs == []
    first, again = (client.post(path, headers=KEY) for _ in range(2))
    assert first.headers.getlist("X-After") == again.headers.getlist("X-After") == ["inner", "outer", "app"]
    assert again.headers["Idempotent-Replayed"] == "true"
    for name in ("app", "outer", "inner"):
        assert client.post(path, headers=KEY | {"Refuse": name}).status_code == 403
    assert len(runs) == 1


@pytest.mark.parametrize("early", ["get_data", "form", "stream", "json", "partly", "uncached"])
def test_a_hook_that_reads_the_body_first_takes_nothing_from_the_view(make: Any, early: str) -> None:
    def set_up(app: Flask) -> None:
        @app.before_request
        def read() -> None:
            g.seen = {
                "get_data": lambda: request.get_data(),
                "form": lambda: request.form.get("a"),
                "stream": lambda: request.stream.read(),
                "json": lambda: request.get_json(silent=True),
                "partly": lambda: request.stream.read(2),
                "uncached": lambda: request.get_data(cache=False),
            }[early]()

    app, _ = make(set_up)
    app.add_url_rule(
        "/orders", "order", lambda: jsonify(request.form.to_dict() or request.get_data(as_text=True)), methods=["POST"]
    )
    client = app.test_client()
    answers = [client.post("/orders", data={"a": "1"}, headers=KEY).json for _ in range(2)]
    assert answers == [{"a": "1"}] * 2
    assert client.post("/orders", data={"a": "2"}, headers=KEY).status_code == 422


def test_a_body_over_the_applications_limit_stays_413_and_leaves_no_claim(make: Any) -> None:
    app, idempotency = make(lambda app: app.config.update(MAX_CONTENT_LENGTH=100))
    app.add_url_rule("/orders", "order", lambda: "ok", methods=["POST"])
    client = app.test_client()
    assert client.post("/orders", data=b"x" * 101, headers=KEY).status_code == 413
    assert idempotency._store._records == {}
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": ""}
    assert client.post("/orders", data=b"x" * 101, headers=KEY, environ_overrides=chunked).status_code == 413
    assert idempotency._store._records == {}
    assert client.post("/orders", data=b"x" * 100, headers=KEY).status_code == 200


@pytest.mark.skipif(Request.max_content_length.fset is None, reason="before Flask 3.1 only the app has a limit")
def test_a_limit_set_by_a_hook_counts(make: Any) -> None:
    def set_up(app: Flask) -> None:
        @app.before_request
        def limit() -> None:
            request.max_content_length = 10

    app, _ = make(set_up)
    app.add_url_rule("/orders", "order", lambda: "ok", methods=["POST"])
    assert app.test_client().post("/orders", data=b"x" * 11, headers=KEY).status_code == 413

"""Our decorator among those of others: what stands above it is asked first, on a replay too."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask_cors import cross_origin
from flask_jwt_extended import JWTManager, create_access_token, get_jwt_identity, jwt_required
from flask_limiter import Limiter
from flask_login import LoginManager, UserMixin, login_required, login_user
from freezegun import freeze_time

from flask_idempotency import Idempotency
from tests.flask.apps import make_app, post


@pytest.fixture(params=["bare", "called", "hooks"])
def covered(request: pytest.FixtureRequest) -> Callable[[Idempotency, Any], Any]:
    """The view as `@idempotency.view`, as `@idempotency.view()`, and without either."""

    def cover(idempotency: Idempotency, view: Any) -> Any:
        if request.param == "hooks":
            return view
        return idempotency.view(view) if request.param == "bare" else idempotency.view()(view)

    return cover


def bearer(app: Flask, who: str, **more: Any) -> dict[str, str]:
    with app.app_context():
        return {"Authorization": "Bearer " + create_access_token(identity=who, **more)}


def jwt_app(covered: Any) -> tuple[Flask, list[str]]:
    app, idempotency = make_app()
    app.config["JWT_SECRET_KEY"] = "j" * 32
    JWTManager(app)
    runs: list[str] = []

    def view() -> Any:
        runs.append(get_jwt_identity())
        return {"run": len(runs)}

    app.add_url_rule("/x", "x", jwt_required()(covered(idempotency, view)), methods=["POST"])
    return app, runs


def test_an_expired_token_hears_no_replay_and_its_user_does_once_it_is_refreshed(covered: Any) -> None:
    app, runs = jwt_app(covered)
    with freeze_time("2026-11-24 12:00:00") as clock:
        token = bearer(app, "ada", expires_delta=timedelta(minutes=5))
        assert post(app, headers=token).json == {"run": 1}
        clock.tick(301)
        assert post(app, headers=token).status_code == 401
        assert post(app, headers=bearer(app, "ada")).json == {"run": 1}
        assert post(app, headers=bearer(app, "bob")).json == {"run": 2}
    assert runs == ["ada", "bob"]


def test_a_forged_token_hears_no_replay(covered: Any) -> None:
    app, runs = jwt_app(covered)
    post(app, headers=bearer(app, "ada"))
    other = Flask(__name__)
    other.config["JWT_SECRET_KEY"] = "another secret of the same length"
    JWTManager(other)
    assert post(app, headers=bearer(other, "ada")).status_code == 422
    assert runs == ["ada"]


class User(UserMixin):
    def __init__(self, name: str) -> None:
        self.id = name


def test_who_has_signed_out_hears_no_replay(covered: Any) -> None:
    app, idempotency = make_app()
    LoginManager(app).user_loader(User)
    app.add_url_rule("/login/<name>", "login", lambda name: str(login_user(User(name))))
    app.add_url_rule("/x", "x", login_required(covered(idempotency, lambda: "done")), methods=["POST"])
    client = app.test_client()
    headers = {"Idempotency-Key": "k"}
    client.get("/login/ada")
    answers = [client.post("/x", headers=headers) for _ in range(2)]
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true"]
    client.delete_cookie("session")
    assert client.post("/x", headers=headers).status_code == 401


@pytest.mark.parametrize("above", [True, False])
def test_a_rate_limit_of_one_view_counts_replays_where_it_stands_above_our_decorator(covered: Any, above: bool) -> None:
    app, idempotency = make_app()
    limit = Limiter(lambda: "everyone", app=app, storage_uri="memory://").limit("2 per day")

    def view() -> str:
        return "done"

    decorated = limit(covered(idempotency, view)) if above else covered(idempotency, limit(view))
    app.add_url_rule("/x", "x", decorated, methods=["POST"])
    counts_replays = above and covered(idempotency, view) is not view
    assert [post(app).status_code for _ in range(3)] == [200, 200, 429 if counts_replays else 200]
    # A refusal is never kept, and whatever runs is counted.
    last = [post(app, key=key).status_code for key in ("second", "third", "third")]
    assert last == ([429] * 3 if counts_replays else [200, 429, 429])


@pytest.mark.parametrize("above", [True, False])
def test_the_headers_of_a_cors_decorator_are_on_replays_too(covered: Any, above: bool) -> None:
    app, idempotency = make_app()
    cors = cross_origin(origins="https://a.example")

    def view() -> str:
        return "done"

    decorated = cors(covered(idempotency, view)) if above else covered(idempotency, cors(view))
    app.add_url_rule("/x", "x", decorated, methods=["POST", "OPTIONS"])
    for _ in range(2):
        answer = post(app, headers={"Origin": "https://a.example"})
        assert answer.headers.getlist("Access-Control-Allow-Origin") == ["https://a.example"]

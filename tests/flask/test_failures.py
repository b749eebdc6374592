"""Whatever fails, before the view, in it or after it: the work is kept if it was done, and no key is stuck."""

from typing import Any

import pytest
from flask import Blueprint, abort, after_this_request, session

from flask_idempotency.engine.heartbeat import heartbeat
from tests.flask.apps import make_app, post, slug


@pytest.fixture(autouse=True)
def no_claim_is_held() -> Any:
    held = len(heartbeat)
    yield
    assert len(heartbeat) == held


@pytest.mark.parametrize("propagate", [True, False])
def test_an_exception_gives_the_key_back(propagate: bool) -> None:
    app, _ = make_app()
    app.config["PROPAGATE_EXCEPTIONS"] = propagate
    fails = [True]

    @app.post("/x")
    def view() -> str:
        if fails.pop():
            raise ValueError("failed")
        return "done"

    if propagate:
        with pytest.raises(ValueError, match="failed"):
            post(app)
    else:
        assert post(app).status_code == 500
    fails.append(False)
    assert [post(app).text for _ in range(2)] == ["done"] * 2


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("how", ["hooks", "decorator"])
def test_a_handler_torn_off_leaves_its_claim_to_lapse(exception: type[BaseException], how: str) -> None:
    app, idempotency = make_app(lease=0.05)

    def view() -> Any:
        assert idempotency.attempt
        if idempotency.attempt.number == 1:
            raise exception
        return {"lapsed": idempotency.attempt.lapsed}

    app.add_url_rule("/x", "x", idempotency.view(view) if how == "decorator" else view, methods=["POST"])
    with pytest.raises(exception):
        post(app)
    record = next(iter(idempotency._store._records.values()))  # type: ignore[union-attr]
    record.lease_ends = 0.0
    assert post(app).json == {"lapsed": True}


@pytest.mark.parametrize("at", ["app", "after_this_request", "blueprint"])
@pytest.mark.parametrize("status", [201, 500])
def test_a_hook_that_fails_after_the_view(at: str, status: int) -> None:
    """What the application wants done to each response cannot undo the answer; what the view wants is part of it."""
    app, _ = make_app()
    blueprint = Blueprint("b", __name__)
    runs: list[int] = []
    failing = [True]

    def hook(response: Any) -> Any:
        if failing:
            raise ValueError("a hook failed")
        return response

    @blueprint.post("/x")
    def view() -> Any:
        runs.append(1)
        if at == "after_this_request":
            after_this_request(hook)
        return f"run {len(runs)}", status

    if at != "after_this_request":
        (app if at == "app" else blueprint).after_request(hook)
    app.register_blueprint(blueprint)
    assert post(app).status_code == 500
    failing.clear()
    kept = at != "after_this_request" and status == 201
    assert post(app).text == ("run 1" if kept else "run 2")


def test_a_hook_before_the_view_that_fails_leaves_no_claim() -> None:
    app, idempotency = make_app()

    @app.before_request
    def hook() -> None:
        raise ValueError

    app.add_url_rule("/x", "x", lambda: "done", methods=["POST"])
    assert post(app).status_code == 500
    assert idempotency._store._records == {}  # type: ignore[union-attr]


def test_a_callable_that_fails_to_say_what_is_kept_gives_the_key_back() -> None:
    answers: list[bool] = []
    app, _ = make_app(keep=lambda status: answers.pop())
    app.add_url_rule("/x", "x", lambda: "done", methods=["POST"])
    assert post(app).status_code == 500
    answers.append(True)
    assert post(app).text == "done"
    assert post(app).headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("option", ["key_from", "principal"])
def test_a_callable_of_the_policy_that_fails_leaves_no_claim(option: str) -> None:
    def failing() -> str:
        raise ValueError

    app, idempotency = make_app(**{option: failing})
    app.add_url_rule("/x", "x", lambda: "done", methods=["POST"])
    assert post(app).status_code == 500
    assert idempotency._store._records == {}  # type: ignore[union-attr]


def test_an_error_handler_is_not_asked_about_our_refusals_but_about_what_the_view_raises() -> None:
    app, _ = make_app()
    app.register_error_handler(400, lambda error: ("handled", 418))
    app.add_url_rule("/x", "x", lambda: abort(400), methods=["POST"])
    assert slug(post(app, key=None)) == "idempotency-key-missing"
    assert post(app).status_code == 418


def test_a_session_is_saved_by_each_request_and_never_kept() -> None:
    app, _ = make_app(keep_cookies=True, principal=None)

    @app.post("/x")
    def view() -> str:
        session["visits"] = session.get("visits", 0) + 1
        return "done"

    client = app.test_client()
    first, again = (client.post("/x", headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert "session=" in first.headers["Set-Cookie"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "session=" not in str(again.headers.getlist("Set-Cookie"))


def test_preprocessing_by_hand_claims_nothing() -> None:
    app, idempotency = make_app()
    app.add_url_rule("/x", "x", lambda: "done", methods=["POST"])
    with app.test_request_context("/x", method="POST", headers={"Idempotency-Key": "k"}):
        assert app.preprocess_request() is None
        assert idempotency.attempt is None
    assert idempotency._store._records == {}  # type: ignore[union-attr]

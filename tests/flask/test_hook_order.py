"""Where our hooks stand among those of the application, whatever it does with its own."""

from typing import Any

import pytest
from flask import Blueprint, Flask, Response, request
from flask_sqlalchemy import SQLAlchemy

from flask_idempotency import Idempotency, Policy
from flask_idempotency.stores import MemoryStore
from tests.flask.apps import make_app, post


def test_an_application_that_replaces_its_list_of_hooks_does_not_lose_ours() -> None:
    app, _ = make_app()
    runs: list[None] = []
    app.add_url_rule("/x", "x", lambda: str(runs.append(None)), methods=["POST"])
    assert post(app, key="before").status_code == 200

    def stamp(response: Response) -> Response:
        response.headers.add("X-Stamp", "app")
        return response

    app.after_request_funcs[None] = [stamp]
    first, again = post(app), post(app)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(runs) == 2
    # After ours, so that it acts on each response, and once.
    assert first.headers.getlist("X-Stamp") == again.headers.getlist("X-Stamp") == ["app"]


def test_an_after_request_hook_that_comes_later_or_is_put_first_runs_after_ours() -> None:
    app, _ = make_app()
    app.add_url_rule("/x", "x", lambda: "ok", methods=["POST"])

    def stamp(name: str) -> Any:
        def hook(response: Response) -> Response:
            response.headers.add("X-Stamp", name)
            return response

        return hook

    app.after_request(stamp("late"))
    app.after_request_funcs[None].insert(0, stamp("first"))
    first, again = post(app), post(app)
    assert first.headers.getlist("X-Stamp") == again.headers.getlist("X-Stamp") == ["late", "first"]


@pytest.mark.parametrize("of", ["headers", "status", "body", "another"])
def test_what_a_blueprint_does_to_each_response_is_done_to_a_replay_once(of: str) -> None:
    blueprint = Blueprint("shop", __name__)
    blueprint.add_url_rule("/x", "x", lambda: ("ok", 201), methods=["POST"])

    @blueprint.after_request
    def change(response: Response) -> Response:
        if of == "headers":
            response.headers.add("X-Count", "1")
        elif of == "status":
            response.status_code += 1
        elif of == "body":
            response.set_data(response.get_data() + b"!")
        else:
            return Response(response.get_data() + b"?", 299)
        return response

    app, _ = make_app()
    app.register_blueprint(blueprint)
    first, again = post(app), post(app)
    assert ("Idempotent-Replayed" in again.headers) == (of != "another")
    assert (again.status, again.data) == (first.status, first.data)
    assert again.headers.getlist("X-Count") == first.headers.getlist("X-Count")
    assert len(first.headers.getlist("X-Count")) == (of == "headers")
    assert len(first.data) <= 3


def test_a_request_that_passes_by_has_no_hook_more_than_without_us() -> None:
    app, _ = make_app(required=False)
    app.add_url_rule("/x", "x", lambda: "ok", methods=["GET", "POST"])
    synchronous: list[str] = []

    class Noting(Flask):
        def ensure_sync(self, function: Any) -> Any:
            synchronous.append(getattr(function, "func", function).__name__)
            return super().ensure_sync(function)

    app.__class__ = Noting
    for method, key in (("GET", "k"), ("POST", None)):
        post(app, method=method, key=key)
        assert synchronous == ["<lambda>"]
        synchronous.clear()
    post(app)
    assert len(synchronous) == 2, "the view and the capture"


def test_a_teardown_that_fails_does_not_keep_the_key_from_being_given_back() -> None:
    app, _ = make_app()
    app.config["PROPAGATE_EXCEPTIONS"] = True

    @app.teardown_request
    def fail(error: BaseException | None) -> None:
        if error is not None:
            raise ZeroDivisionError

    @app.post("/x")
    def view() -> str:
        if "fail" in request.args:
            raise ValueError("the handler failed")
        return "ok"

    with pytest.raises(ZeroDivisionError):
        post(app, "/x?fail=1")
    assert post(app, "/x").status_code == 200, "another payload may use the key that was given back"


@pytest.mark.parametrize("when", ["before a view whose decorator hides ours", "in a hook", "with another app's"])
def test_a_list_of_hooks_that_takes_the_place_of_ours_does_not_end_the_keeping(when: str) -> None:
    in_view = when.startswith("before")
    app, idempotency = make_app(**({"methods": ()} if in_view else {}))
    runs: list[None] = []

    def view() -> str:
        runs.append(None)
        return "done"

    decorated = idempotency.view()(view)
    app.add_url_rule("/x", "x", (lambda: decorated()) if in_view else view, methods=["POST"])
    if when == "in a hook":
        app.before_request(lambda: app.after_request_funcs.update({None: [lambda response: response]}))
    elif in_view:
        app.after_request_funcs[None] = [lambda response: response]
    else:
        app.after_request_funcs.update(make_app()[0].after_request_funcs)
    assert [post(app).text for _ in range(2)] == ["done", "done"]
    assert len(runs) == 1


def test_the_list_of_hooks_may_be_looked_through_outside_of_requests() -> None:
    app, _ = make_app()
    app.after_request(lambda response: response)
    assert list(reversed(app.after_request_funcs[None])) == app.after_request_funcs[None]


@pytest.mark.parametrize("set_up", ["before", "after"])
def test_a_view_is_covered_whoever_takes_the_place_of_dispatching(set_up: str) -> None:
    app = Flask(__name__)
    of_the_class = Flask.dispatch_request

    def dispatch_request() -> Any:  # as Flask-DebugToolbar does it: what stood there before is not called
        return of_the_class(app)

    if set_up == "before":
        app.dispatch_request = dispatch_request  # type: ignore[method-assign]
    Idempotency(app, store=MemoryStore())
    if set_up == "after":
        app.dispatch_request = dispatch_request  # type: ignore[method-assign]
    runs: list[None] = []
    app.add_url_rule("/x", "x", lambda: runs.append(None) or f"run {len(runs)}", methods=["POST"])
    assert [post(app).text for _ in range(2)] == ["run 1", "run 1"]
    assert post(app, key=None).status_code == 400


def test_an_atomic_view_is_one_whoever_takes_the_place_of_dispatching(tmp_path: Any) -> None:
    app = Flask(__name__)
    app.config.update(PROPAGATE_EXCEPTIONS=False, SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/shop.db")
    db = SQLAlchemy(app)
    notes = db.Table("notes", db.Column("text", db.String))
    Idempotency(app, store=MemoryStore(), policy=Policy(atomic=True))
    of_the_class = Flask.dispatch_request

    def dispatch_request() -> Any:  # as Flask-DebugToolbar does it: what stood there before is not called
        return of_the_class(app)

    app.dispatch_request = dispatch_request  # type: ignore[method-assign]

    @app.post("/x")
    def view() -> str:
        db.session.execute(notes.insert().values(text="half"))
        db.session.commit()
        raise ValueError

    with app.app_context():
        db.create_all()
    assert [post(app).status_code for _ in range(2)] == [500, 500]
    with app.app_context():
        assert db.session.execute(notes.select()).all() == []


def test_whoever_ends_a_request_by_hand_may_name_the_error() -> None:
    app, _ = make_app()
    ended: list[object] = []
    app.teardown_request(ended.append)
    app.add_url_rule("/x", "x", lambda: "ok", methods=["POST"])
    error = ValueError()
    for method in ("GET", "POST"):
        with app.test_request_context("/x", method=method, headers={"Idempotency-Key": "k"}):
            app.full_dispatch_request()
            app.do_teardown_request(exc=error)
            assert ended.pop() is error
        ended.clear()

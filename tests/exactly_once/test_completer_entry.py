"""As whom the completer enters: as the principal that a request came from, or not at all."""

from pathlib import Path
from typing import Any

import pytest
from flask import request, session
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user

from flask_idempotency import Idempotency
from tests.exactly_once.test_completer_care import DONE, Left

WAITS = "0 completed, 0 in progress or refused, 1 failed"


def note_user(request: Any) -> Any:
    return {"user": request.headers["X-User"]}


class Guarded(Left):
    """An app that lets nobody in but by a header; requests note who sent them."""

    def make(self, **more: Any) -> Any:
        app = super().make(**({"completable": False, "keep_request": note_user} | more))
        app.before_request(lambda: None if "X-User" in request.headers else ("who?", 401))
        self.answer = lambda: (request.headers["X-User"], 201)
        return app

    def ask(self, key: str = "k", **more: Any) -> Any:
        headers = {"Idempotency-Key": key, "X-User": "ada"}
        return self.app.test_client().post("/orders", json={"item": key}, headers=headers, **more)


def test_it_enters_with_the_headers_that_the_application_says(tmp_path: Path) -> None:
    left = Guarded(tmp_path, login_as=lambda resumed: {"X-User": resumed.context["user"]})
    left.leave()
    assert left.complete() == DONE
    assert left.ask().text == "ada"
    assert left.runs == ["k"]


@pytest.mark.parametrize("login_as", [None, lambda resumed: None, lambda resumed: False])
def test_a_request_whose_principal_nobody_says_how_to_enter_as_waits_and_is_reported(
    tmp_path: Path, login_as: Any
) -> None:
    left = Guarded(tmp_path, login_as=login_as)
    left.leave()
    for _ in range(2):
        left.change(due_at=0)
        exit_code, lines = left.complete()
        assert (exit_code, lines[0]) == (1, WAITS)
        assert "1 left waiting" in lines[1]
    assert left.runs == []
    assert left.rows() == 1


def test_it_does_not_enter_as_nobody_where_nobody_would_be_let_in(tmp_path: Path) -> None:
    """The view serves anybody, each in his own name: it must not serve the completer as an anonymous caller."""
    left = Left(tmp_path, completable=False)
    left.leave()
    assert left.complete()[0] == 1
    assert left.runs == []


@pytest.mark.parametrize("completable", [True, False])
def test_a_single_view_can_be_marked_as_one_that_needs_nobody(tmp_path: Path, completable: bool) -> None:
    left = Left(tmp_path, completable=False)
    decorate = left.idempotency.view(completable=completable)
    left.app.view_functions["orders"] = decorate(left.app.view_functions["orders"])
    left.leave()
    assert left.complete()[0] == (0 if completable else 1)
    assert left.runs == (["k"] if completable else [])


def test_what_cannot_be_called_is_no_login() -> None:
    with pytest.raises(TypeError, match="login_as must be a callable"):
        Idempotency(login_as="ada")  # type: ignore[arg-type]


def test_a_login_that_fails_fails_alone(tmp_path: Path) -> None:
    def login_as(resumed: Any) -> Any:
        if resumed.key == "bad":
            raise ZeroDivisionError
        return {"X-User": resumed.context["user"]}

    left = Guarded(tmp_path, login_as=login_as)
    left.leave("bad")
    left.leave("good")
    left.change(due_at=0)
    assert left.complete() == (1, ["1 completed, 0 in progress or refused, 1 failed", "  1 answered with 500"])
    assert left.runs == ["good"]


class User(UserMixin):
    def __init__(self, user_id: str) -> None:
        self.id = user_id


class SignedIn(Left):
    """An app of Flask-Login's."""

    def make(self, **more: Any) -> Any:
        app = super().make(**({"completable": False, "keep_request": lambda: {"user": current_user.id}} | more))
        LoginManager(app).user_loader(User)
        app.view_functions["orders"] = login_required(app.view_functions["orders"])
        app.add_url_rule("/login", "login", lambda: str(login_user(User("ada"))))
        self.answer = lambda: (str(current_user.id), 201)
        return app

    def ask(self, key: str = "k", **more: Any) -> Any:
        client = self.app.test_client()
        client.get("/login")
        return client.post("/orders", json={"item": key}, headers={"Idempotency-Key": key}, **more)


def test_it_enters_by_signing_in(tmp_path: Path) -> None:
    left = SignedIn(tmp_path, login_as=lambda resumed: login_user(User(resumed.context["user"])))
    left.leave()
    assert left.complete() == DONE
    heard = left.ask()  # the same principal
    assert (heard.text, heard.headers["Idempotent-Replayed"]) == ("ada", "true")
    assert left.runs == ["k"]


def test_a_session_that_joined_the_fingerprint_need_not_come_again(tmp_path: Path) -> None:
    left = Left(tmp_path)
    left.app.add_url_rule("/fill", "fill", lambda: session.update(basket=7) or "ok")
    client = left.app.test_client()
    client.get("/fill")

    def ask(key: str = "k", **more: Any) -> Any:
        return client.post("/orders", json={"item": key}, headers={"Idempotency-Key": key}, **more)

    left.ask = ask  # type: ignore[method-assign]
    left.leave()
    assert left.complete() == DONE
    assert ask().headers["Idempotent-Replayed"] == "true"


def test_a_refusal_is_known_however_it_is_dressed(tmp_path: Path) -> None:
    def dress(problem: Any, response: Any) -> Any:
        response.data, response.status_code, response.mimetype = "no", 400, "text/plain"
        return response

    left = Left(tmp_path, on_lapse="refuse", refusal=dress)
    left.leave()
    assert left.complete() == (0, ["0 completed, 1 in progress or refused, 0 failed"])
    assert left.rows() == 1


def test_an_attempt_that_was_fenced_does_not_forget_the_request_of_the_one_that_took_over(tmp_path: Path) -> None:
    left = Left(tmp_path)

    def sleep() -> Any:
        left.answer = lambda: ("done", 201)
        left.store.let_leases_end()
        left.leave()  # another takes over, and dies in it
        return "late", 201

    left.answer = sleep
    late = left.ask()
    assert late.status_code == 409
    assert left.rows() == 1
    assert left.complete() == DONE
    assert left.ask().text == "done"
    assert left.runs == ["k"]

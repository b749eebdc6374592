"""Who asks, as an application with sessions knows it, and what a session that does not say does."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, Response, flash, get_flashed_messages, request, session
from flask.sessions import SessionInterface, SessionMixin
from flask_jwt_extended import JWTManager
from flask_login import LoginManager
from freezegun import freeze_time
from werkzeug.datastructures import CallbackDict

from tests.flask.apps import make_app, post, slug

KEY = {"Idempotency-Key": "k"}


class Visits:
    """An application whose visitors have sessions; `/session` sets what is in theirs."""

    def __init__(self, set_up: Callable[[Flask], object] = lambda app: None, **policy: Any) -> None:
        self.app, _ = make_app(**policy)
        self.app.testing = True
        self.runs = 0
        set_up(self.app)
        self.app.add_url_rule(
            "/session", "session", lambda: session.update(request.get_json()) or "ok", methods=["PUT"]
        )
        self.app.add_url_rule("/orders", "orders", self.order, methods=["POST"])

    def order(self) -> dict[str, int]:
        self.runs += 1
        return {"run": self.runs}

    def visitor(self, **content: Any) -> Any:
        client = self.app.test_client()
        if content:
            client.put("/session", json=content)
        return client


def order(visitor: Any) -> Any:
    return visitor.post("/orders", headers=KEY)


def test_a_session_that_names_its_user_tells_callers_apart_and_may_change() -> None:
    visits = Visits()
    ada, again, bob = visits.visitor(user_id=1, cart="a"), visits.visitor(user_id=1), visits.visitor(user_id=2)
    assert [order(visitor).json["run"] for visitor in (ada, again, bob, bob)] == [1, 1, 2, 2]


def test_a_session_that_names_nobody_refuses_another_visitor_and_one_whose_session_changed() -> None:
    visits = Visits()
    one, two = visits.visitor(cart="a"), visits.visitor(cart="b")
    assert [order(one).json["run"] for _ in range(2)] == [1, 1]
    assert slug(order(two)) == "idempotency-key-reused"
    one.put("/session", json={"cart": "c"})
    assert slug(order(one)) == "idempotency-key-reused"
    assert slug(order(visits.visitor())) == "idempotency-key-reused"
    assert visits.runs == 1


def test_what_matters_is_the_content_of_a_session_not_how_its_cookie_is_signed() -> None:
    def set_up(app: Flask) -> None:
        @app.before_request
        def make_permanent() -> None:
            session.permanent = True

    visits = Visits(set_up)
    cookies = set()
    with freeze_time("2026-11-24 12:00:00") as clock:
        visitor = visits.visitor(cart="a", seen=[1, {"b": 2, "a": 1}])
        for _ in range(3):
            assert order(visitor).json["run"] == 1
            cookies.add(visitor.get_cookie("session").value)
            clock.tick(10)
    assert len(cookies) == 3


def test_flashes_come_and_go_and_do_not_count() -> None:
    def set_up(app: Flask) -> None:
        app.add_url_rule("/flash", "flash", lambda: flash("saved") or "ok")
        app.add_url_rule("/read", "read", lambda: str(get_flashed_messages()))

    visits = Visits(set_up)
    visitor = visits.visitor(cart="a")
    for path in ("/flash", "/flash", "/read"):
        assert order(visitor).json["run"] == 1
        visitor.get(path)
    assert order(visitor).json["run"] == 1


@pytest.mark.parametrize("first_visit", [{}, {"user_id": None}])
def test_an_empty_session_joins_nothing(first_visit: dict[str, Any]) -> None:
    def set_up(app: Flask) -> None:
        @app.before_request
        def make_permanent() -> None:
            session.permanent = True

    visits = Visits(set_up)
    visitor = visits.visitor()
    answers = [order(visitor) for _ in range(3)]
    assert [answer.json["run"] for answer in answers] == [1, 1, 1]
    assert visitor.get_cookie("session") is not None


def test_a_visitor_without_cookies_is_anonymous_whatever_a_hook_puts_into_the_new_session() -> None:
    numbers = iter(range(10))

    def set_up(app: Flask) -> None:
        @app.before_request
        def number() -> None:
            session.setdefault("visitor", next(numbers))

    visits = Visits(set_up)
    # The answer, and the cookie with it, was lost: the retry comes without one, too.
    assert [order(visits.visitor()).json["run"] for _ in range(2)] == [1, 1]


def test_credentials_go_before_the_session() -> None:
    visits = Visits()
    for cart in ("a", "b"):
        visitor = visits.visitor(cart=cart)
        answer = visitor.post("/orders", headers=KEY | {"Authorization": "Bearer ada"})
        assert answer.json["run"] == 1


@pytest.mark.parametrize("principal", [None, lambda: "me", ["X-User"]])
def test_once_the_principal_is_set_sessions_play_no_part(principal: Any, caplog: pytest.LogCaptureFixture) -> None:
    visits = Visits(principal=principal)
    assert [order(visits.visitor(cart=cart, user_id=cart)).json["run"] for cart in ("a", "b")] == [1, 1]
    assert not caplog.records


def test_a_session_that_names_nobody_warns_once_and_names_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    visits = Visits()
    order(visits.visitor())
    order(visits.visitor(user_id=7))
    assert not caplog.records
    for _ in range(2):
        order(visits.visitor(cart="secret"))
    (warning,) = [record for record in caplog.records if record.name == "flask_idempotency"]
    assert "IDEMPOTENCY_PRINCIPAL" in warning.getMessage()
    assert "principal=" in warning.getMessage()
    assert "secret" not in warning.getMessage()


@pytest.mark.parametrize("content", [{}, {"cart": "a"}, {"user_id": 7}])
def test_the_session_that_we_read_is_not_marked_and_varies_no_response(content: dict[str, Any]) -> None:
    visits = Visits()
    seen: list[tuple[bool, bool]] = []

    class Noting(type(visits.app.session_interface)):  # type: ignore[misc]
        def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
            seen.append((session.accessed, session.modified))
            super().save_session(app, session, response)

    visitor = visits.visitor(**content)
    visits.app.session_interface = Noting()
    for answer in (order(visitor), order(visitor)):
        assert answer.json["run"] == 1
        assert "Vary" not in answer.headers
        assert "Set-Cookie" not in answer.headers
    assert seen == [(False, False)] * 2


def test_a_session_that_others_read_stays_marked() -> None:
    def set_up(app: Flask) -> None:
        @app.before_request
        def look() -> None:
            session.get("cart")

    visits = Visits(set_up)
    visitor = visits.visitor(cart="a")
    assert [order(visitor).headers["Vary"] for _ in range(2)] == ["Cookie", "Cookie"]


class ServerSide(CallbackDict[str, Any], SessionMixin):
    """As Flask-Session has it: the cookie carries an id."""

    def __init__(self, sid: str, initial: Any) -> None:
        super().__init__(initial)
        self.sid = sid


class ServerSideSessions(SessionInterface):
    def __init__(self, *, signed: bool) -> None:
        self.kept: dict[str, Any] = {}
        self.signature = ".signature" if signed else ""

    def open_session(self, app: Flask, request: Any) -> ServerSide:
        cookie = request.cookies.get(self.get_cookie_name(app), "")
        sid = cookie.removesuffix(self.signature) or f"sid-{id(request):x}-{len(self.kept)}"
        return ServerSide(sid, self.kept.get(sid))

    def save_session(self, app: Flask, session: Any, response: Response) -> None:
        self.kept[session.sid] = dict(session)
        response.set_cookie(self.get_cookie_name(app), session.sid + self.signature)


@pytest.mark.parametrize("signed", [True, False])
def test_the_id_of_a_server_side_session_tells_visitors_apart_whatever_is_in_it(signed: bool) -> None:
    visits = Visits(lambda app: setattr(app, "session_interface", ServerSideSessions(signed=signed)))
    one, two = visits.visitor(cart="a"), visits.visitor(cart="a")
    assert [order(visitor).json["run"] for visitor in (one, two, one, two)] == [1, 2, 1, 2]
    one.put("/session", json={"cart": "b"})
    assert order(one).json["run"] == 1


def test_the_id_of_a_session_that_is_made_for_the_request_names_nobody() -> None:
    visits = Visits(lambda app: setattr(app, "session_interface", ServerSideSessions(signed=False)))
    lost = [visits.visitor() for _ in range(2)]  # the cookie was lost with the answer
    for visitor in lost:
        visitor.set_cookie("_ga", "analytics")
    assert [order(visitor).json["run"] for visitor in lost] == [1, 1]


def test_an_anonymous_visitor_of_an_application_with_logins_is_told_apart_by_the_session() -> None:
    visits = Visits(lambda app: LoginManager(app).user_loader(lambda id_: None))
    one, two = visits.visitor(cart="a"), visits.visitor(cart="b")
    assert [order(one).json["run"] for _ in range(2)] == [1, 1]
    assert slug(order(two)) == "idempotency-key-reused"


def test_what_is_in_a_session_stays_out_of_the_store() -> None:
    visits = Visits()
    order(visits.visitor(cart="secret cart", user_id="secret user"))
    store = visits.app.extensions["idempotency"].engine.store
    assert not re.search("secret", repr(vars(store)))


@pytest.mark.parametrize("body", ["[1]", '"text"', "5", "null", "{"])
def test_a_token_that_is_looked_for_in_a_body_of_another_kind_is_none(body: str) -> None:
    app, _ = make_app()
    app.config.update(JWT_SECRET_KEY="s" * 40, JWT_TOKEN_LOCATION=["headers", "json"])
    JWTManager(app)
    app.add_url_rule("/x", "x", lambda: "done", methods=["POST"])
    assert [post(app, data=body, content_type="application/json").status_code for _ in range(2)] == [200, 200]

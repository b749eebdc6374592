"""On whose behalf a request comes."""

import functools
import uuid
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug import Request
from werkzeug.local import LocalProxy
from werkzeug.test import EnvironBuilder

from flask_idempotency.engine.policy import Policy
from flask_idempotency.http.principal import Caller, _warn_of_cookies, call_with_request, caller_of


class Known:
    """What a front end knows of its callers."""

    def __init__(self, user: tuple[str, str] | None = None, session: tuple[str, str] | bytes | None = None) -> None:
        self._user = user
        self._session = session

    def user(self) -> tuple[str, str] | None:
        return self._user

    def session(self, request: Request) -> tuple[str, str] | bytes | None:
        return self._session


class Unwanted:
    """Must not be asked."""

    def user(self) -> NoReturn:
        raise AssertionError("nobody shall be asked who is signed in")

    session = user


def caller(chosen: Any = "default", signed_in: Any = None, **headers: str) -> Caller:
    environ = EnvironBuilder(headers={name.replace("_", "-"): value for name, value in headers.items()}).get_environ()
    return caller_of(environ, lambda: Request(environ), Policy(principal=chosen), signed_in)


def principal(chosen: Any = "default", signed_in: Any = None, **headers: str) -> bytes:
    found = caller(chosen, signed_in, **headers)
    assert not found.joins_fingerprint
    return found.principal


def test_it_is_a_digest_of_fixed_length_that_shows_no_credential() -> None:
    secret = "Bearer topsecret"
    digest = principal(Authorization=secret)
    assert len(digest) == len(principal()) == 16
    assert secret.encode() not in digest


def test_callers_are_told_apart_by_their_authorization() -> None:
    assert (
        len({principal(), principal(Authorization="a"), principal(Authorization="b"), principal(Authorization="")}) == 4
    )
    assert principal(Authorization="a") == principal(Authorization="a")


def test_a_signed_in_user_is_the_same_whatever_the_token_and_the_session() -> None:
    one = principal(signed_in=Known(("login", "7"), b"a session"), Authorization="a", Cookie="c=1")
    two = principal(signed_in=Known(("login", "7"), ("user_id", "8")), Authorization="b", Cookie="c=2")
    assert one == two != principal(signed_in=Known(("login", "8")))
    assert one != principal(signed_in=Known(("jwt", "7")))


def test_a_request_nobody_is_signed_in_for_falls_back_to_the_authorization() -> None:
    assert principal(signed_in=Known(session=b"a session"), Authorization="a", Cookie="c") == principal(
        Authorization="a"
    )


def test_a_session_that_names_its_user_tells_callers_apart() -> None:
    one, two = (principal(signed_in=Known(session=("user_id", user)), Cookie="c") for user in "78")
    assert one != two
    assert one != principal(signed_in=Known(session=("sid", "7")), Cookie="c")
    assert one != principal(signed_in=Known(("user_id", "7")), Cookie="c")


def test_a_session_that_names_nobody_joins_the_fingerprint() -> None:
    one, two, same = (caller(signed_in=Known(session=content), Cookie="c") for content in (b"1", b"2", b"1"))
    assert one.principal == two.principal == principal()
    assert one.joins_fingerprint != two.joins_fingerprint
    assert one == same
    assert len(one.joins_fingerprint) == 16


def test_an_empty_session_joins_nothing() -> None:
    assert caller(signed_in=Known(session=None), Cookie="c") == caller()
    assert caller(Cookie="") == caller()


def test_without_sessions_the_cookies_take_that_part(caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_cookies.cache_clear()
    one, two, same = (caller(Cookie=cookie) for cookie in ("c=1", "c=2", "c=1"))
    assert one.principal == two.principal == principal()
    assert one.joins_fingerprint != two.joins_fingerprint
    assert one == same
    assert ["principal=" in record.message for record in caplog.records] == [True], "said once"
    assert "c=1" not in caplog.text


@pytest.mark.parametrize("chosen", [lambda: "me", ["X-User"], None])
def test_a_principal_of_its_own_replaces_all_others(chosen: Any) -> None:
    one, two = (principal(chosen, Unwanted(), Authorization=word, Cookie=word, X_User="me") for word in "ab")
    assert one == two


@pytest.mark.parametrize("chosen", [lambda: None, ["X-User"], ["cookie:user", "X-User"]])
def test_whom_a_principal_of_its_own_does_not_name_is_anonymous(chosen: Any) -> None:
    assert principal(chosen, Authorization="a", Cookie="c=1") == principal()


@pytest.mark.parametrize("names", [["X-Tenant", "X-User"], ("x-tenant", "X-USER")])
def test_headers_are_named_in_any_case_and_all_of_them_count(names: Any) -> None:
    of = functools.partial(principal, names)
    assert of(X_Tenant="a", X_User="b", X_Other="1") == of(X_Tenant="a", X_User="b", X_Other="2")
    assert (
        len({of(X_Tenant="a", X_User="b"), of(X_Tenant="b", X_User="a"), of(X_Tenant="a"), of(X_User="a"), of()}) == 5
    )


def test_a_cookie_may_name_the_caller() -> None:
    of = functools.partial(principal, ["cookie:user"])
    assert of(Cookie="a=1; user=7") == of(Cookie="user=7; a=2") != of(Cookie="user=8")
    assert of(Cookie="user=7") != principal(["user"], User="7")


@given(st.lists(st.tuples(*[st.text(max_size=3)] * 2), min_size=2, max_size=2, unique=True))
def test_no_two_users_are_one_however_they_are_spelt(users: list[tuple[str, str]]) -> None:
    one, two = (principal(signed_in=Known(user)) for user in users)
    assert one != two


@pytest.mark.parametrize("value", [7, uuid.UUID(int=7), b"\xff\x00", ("tenant", 7), "\ud800", "", 0, False])
def test_whatever_names_a_caller_may_be_returned(value: object) -> None:
    assert principal(lambda: value) == principal(lambda: value) != principal(lambda: None)


class User:
    """What an application may have by hand: an object whose text is its address."""


async def current() -> str:
    return "me"


@pytest.mark.parametrize(
    "value", [User(), LocalProxy(User), [User()], current], ids=["object", "proxy", "list of objects", "function"]
)
def test_an_object_that_names_nobody_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="principal must return what names the caller"):
        principal(lambda: value)


@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_coroutine_names_nobody() -> None:
    with pytest.raises(TypeError, match="principal must return what names the caller"):
        principal(lambda: current())  # the policy itself refuses a function that is one


def test_a_text_that_looks_like_an_address_is_a_text() -> None:
    principal(lambda: "the house at 0x42")


class Auth:
    """Callables of every kind, that take the request or nothing."""

    def none(self) -> str:
        return "nothing"

    def one(self, request: Request) -> str:
        return request.path

    @staticmethod
    def static() -> str:
        return "nothing"

    def __call__(self) -> str:
        return "nothing"


class AuthOfRequest:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, request: Request) -> str:
        return request.path


def passing_on(function: Callable[..., str]) -> Callable[..., str]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> str:
        return function(*args, **kwargs)

    return wrapper


def keywords_only(*, default: str = "nothing") -> str:
    return default


def with_default(request: Any = None) -> str:
    return str(request.path)


@pytest.mark.parametrize(
    ("function", "returns"),
    [
        (lambda: "nothing", "nothing"),
        (lambda request: request.path, "/"),
        (lambda *args: args[0].path, "/"),
        (Auth().none, "nothing"),
        (Auth().one, "/"),
        (Auth.static, "nothing"),
        (Auth(), "nothing"),
        (AuthOfRequest(), "/"),
        (functools.partial(lambda name: name, "nothing"), "nothing"),
        (functools.partial(lambda name, request: request.path, "x"), "/"),
        (passing_on(lambda: "nothing"), "nothing"),
        (passing_on(lambda request: request.path), "/"),
        (keywords_only, "nothing"),
        (with_default, "/"),
        (str, str(Request(EnvironBuilder().get_environ()))),
    ],
)
def test_a_callable_gets_the_request_if_it_takes_one(function: Callable[..., str], returns: str) -> None:
    assert call_with_request(function, Request(EnvironBuilder().get_environ())) == returns

"""On whose behalf a request comes: a part of the record's identity, so that nobody hears another's answer."""

import inspect
import logging
import re
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple, Protocol

from werkzeug import Request
from werkzeug.http import parse_cookie

from ..engine.digests import digest
from ..engine.policy import Policy
from .header import environ_name

logger = logging.getLogger("flask_idempotency")

_COOKIE = "cookie:"


class SignedIn(Protocol):
    """What an application knows of its callers; a front end that knows no sessions has none."""

    def user(self) -> tuple[str, str] | None:
        """How the caller signed in and who it is, as the application's own means have verified it; None for nobody."""
        ...

    def session(self, request: Request) -> tuple[str, str] | bytes | None:
        """What the session says: a tuple names the caller, bytes are its content; None where it is empty."""
        ...


class Caller(NamedTuple):
    """The principal, as a digest, and what of a session that names nobody joins the fingerprint: a digest, or b""."""

    principal: bytes
    joins_fingerprint: bytes = b""


def caller_of(
    environ: dict[str, Any], request: Callable[[], Request], policy: Policy, signed_in: SignedIn | None = None
) -> Caller:
    """Who asks. Raw credentials go no further than this function."""
    chosen = policy.principal
    if isinstance(chosen, str):
        user = None if signed_in is None else signed_in.user()
        if user is not None:
            return Caller(_digest("user", *user))
        authorization = environ.get("HTTP_AUTHORIZATION")
        if authorization is not None:
            return Caller(_digest("authorization", authorization))
        return _by_cookies(environ, request, signed_in) if "HTTP_COOKIE" in environ else _ANONYMOUS
    if chosen is None:
        return _ANONYMOUS
    if callable(chosen):
        value = call_with_request(chosen, request())
        return _ANONYMOUS if value is None else Caller(_digest("callable", _text(value)))
    named = [(name, value) for name in chosen if (value := _sent(environ, name)) is not None]
    return Caller(_digest("named", *(part for pair in named for part in pair))) if named else _ANONYMOUS


def _by_cookies(environ: dict[str, Any], request: Callable[[], Request], signed_in: SignedIn | None) -> Caller:
    """Who asks, where nobody is signed in and nothing else says so."""
    cookie = environ.get("HTTP_COOKIE")
    if not cookie:
        return _ANONYMOUS
    if signed_in is None:
        _warn_of_cookies()
        return Caller(_ANONYMOUS.principal, _digest("cookie", cookie))
    session = signed_in.session(request())
    if session is None:
        return _ANONYMOUS
    if isinstance(session, bytes):
        return Caller(_ANONYMOUS.principal, digest(session))
    return Caller(_digest("session", *session))


def _sent(environ: dict[str, Any], name: str) -> str | None:
    """The value of a header, or of a cookie where the name says so."""
    if name.startswith(_COOKIE):
        return parse_cookie(environ).get(name.removeprefix(_COOKIE))
    value: str | None = environ.get(environ_name(name))
    return value


@cache
def _warn_of_cookies() -> None:
    logger.warning(
        "A request has cookies, and nothing else tells on whose behalf it comes. So that nobody hears another's "
        "answer, a retry with other cookies is refused. Set principal= to what names the caller, such as "
        "Policy(principal=['cookie:session']); to None, where callers need no telling apart."
    )


def call_with_request(function: Callable[..., object], request: Request) -> object:
    """Call `function` with the request, or with nothing where it takes no argument (`flask.request` serves it)."""
    return function(request) if _takes_an_argument(function) else function()


def _takes_an_argument(function: Callable[..., object]) -> bool:
    if isinstance(function, FunctionType) and not hasattr(function, "__wrapped__"):
        code = function.__code__  # a signature takes long to make
        return code.co_argcount > 0 or bool(code.co_flags & inspect.CO_VARARGS)
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C, it does not tell
        return True
    return any(parameter.kind in _POSITIONAL for parameter in parameters)


_POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)

_AN_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    text = value.hex() if isinstance(value, bytes) else str(value)
    if _AN_ADDRESS.search(text):
        # It would be another with each request, and one day another caller's.
        raise TypeError(f"principal must return what names the caller, such as an id, not an object: {type(value)!r}.")
    return text


def _digest(*parts: str) -> bytes:
    # Each part is framed by its length, so that no two lists of parts read the same.
    framed = "".join([f"{len(part)}:{part}" for part in parts])
    return digest(framed.encode("utf-8", "surrogatepass"))


_ANONYMOUS = Caller(_digest("anonymous"))

"""On whose behalf a request comes: a part of the record's identity, so that nobody hears another's answer."""

import inspect
import re
from collections.abc import Callable
from types import FunctionType
from typing import Any

from werkzeug import Request

from ..engine.digests import digest
from ..engine.policy import Policy
from .header import environ_name

#: Tells who is signed in, as one of the application's own means of signing in has verified it; None for nobody.
SignedIn = Callable[[Request], tuple[str, str] | None]


def principal_of(
    environ: dict[str, Any], request: Callable[[], Request], policy: Policy, signed_in: SignedIn | None = None
) -> bytes:
    """A digest of fixed length that stands for the principal. Raw credentials go no further than this function."""
    chosen = policy.principal
    if callable(chosen):
        value = call_with_request(chosen, request())
        return _digest("callable", *(() if value is None else (_text(value),)))
    if chosen is not None:
        return _digest("headers", *(f"{name.lower()}={environ.get(environ_name(name), '')}" for name in chosen))
    user = signed_in(request()) if signed_in is not None else None
    if user is not None:
        return _digest("user", *user)
    authorization = environ.get("HTTP_AUTHORIZATION")
    return _NOBODY if authorization is None else _digest("authorization", authorization)


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


_NOBODY = _digest("nobody")

"""The rules a resource sets for its idempotency keys."""

import difflib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import timedelta
from inspect import iscoroutinefunction
from typing import Any, Literal, get_args

OnLapse = Literal["rerun", "refuse"]
OnError = Literal["release", "refuse"]
OnConflict = Literal["refuse", "rerun"]
OnStoreError = Literal["refuse", "run"]
OnCompletionError = Literal["answer", "refuse"]
Keep = Literal["success", "all"]
FingerprintBy = Literal["bytes", "json"]

#: As form handlers say that they succeeded. 307 and 308 say "send it elsewhere": nothing was done.
_SUCCESSFUL_REDIRECTS = frozenset({301, 302, 303})

#: They ask to come again: whatever is kept, these are not.
_COME_AGAIN = frozenset({401, 407, 408, 425, 429, 503})


class PolicyError(TypeError, ValueError):
    """An option that does not exist, or a value that it does not allow; says what would be allowed.

    Both a TypeError and a ValueError, since a wrong option can be either and is mended in the same place.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules in force for a request: what needs a key, what is kept, for how long, and what doubt does.

    Durations are seconds; a `timedelta` is accepted and converted. Every value is checked on creation. Sequences may be
    lists, since JSON has no tuples.
    """

    #: The request header that carries the key.
    header: str = "Idempotency-Key"
    #: Where the key stands elsewhere: called with the request, returns the key, or None where there is none.
    key_from: Callable[..., str | None] | None = None
    #: Methods that the policy covers; any other passes untouched.
    methods: tuple[str, ...] = ("POST", "PATCH")
    #: Whether a covered request without a key is refused (400) or simply runs.
    required: bool = True
    #: Accept only the quoted form of the draft, an RFC 9651 String.
    strict: bool = False
    #: How long a completed record is kept.
    retention: float = 24 * 60 * 60.0
    #: How long a claim stands without being renewed; the heartbeat renews those of living handlers.
    lease: float = 30.0
    #: How long a handler's claim is renewed; None for as long as it lives. One that hangs is fenced thereafter.
    max_run: float | None = None
    #: How long a concurrent repeat may be held until the first is done, instead of 409 at once.
    wait: float = 0.0
    #: How many requests of one process may be held at a time; those beyond hear 409 at once.
    max_waiters: int = 4
    #: Which responses are kept: 2xx and the redirects of forms, all, or those whose status the callable says yes to.
    keep: Keep | Callable[[int], bool] = "success"
    #: Whether `Set-Cookie` is kept and replayed.
    keep_cookies: bool = False
    #: What a repeat does after the holder of the claim vanished.
    on_lapse: OnLapse = "rerun"
    #: What an exception or a 5xx that is not kept does: give the key back, or leave the outcome unknown.
    on_error: OnError = "release"
    #: What a request does when the store cannot be reached: 503, or run unprotected.
    on_store_error: OnStoreError = "refuse"
    #: What the client hears when the answer cannot be stored yet: the answer, or 503.
    on_completion_error: OnCompletionError = "answer"
    #: Whether claims survive power loss, too. With `on_lapse="refuse"` they always do.
    durable_claims: bool = False
    #: Larger responses are not kept; they leave a tombstone.
    max_response_bytes: int = 1024 * 1024
    #: Request bodies up to so many bytes stay in memory, larger ones go to a temporary file.
    spool_bytes: int = 256 * 1024
    #: On whose behalf a request comes: "default" finds out who is signed in, then by credentials, then by the session.
    #: Else a callable of the request, or the names of headers and `cookie:NAME`; None where callers need no telling
    #: apart.
    principal: Literal["default"] | Callable[..., object] | tuple[str, ...] | None = "default"
    #: What of the payload is digested: its bytes, or, where it is JSON, its value; or what a callable of the request
    #: returns.
    fingerprint: FingerprintBy | Callable[..., object] = "bytes"
    #: Whether the view's rows and its kept answer commit in one transaction; needs SQLAlchemy sessions.
    atomic: bool = False
    #: What an atomic view does when its transaction met another's: 503, or run again a few times.
    on_conflict: OnConflict = "refuse"
    #: Whether requests are kept while they are worked on, so that `flask idempotency complete` can finish what a crash
    #: left; a callable of the request adds what the application needs then, as JSON. Needs SQLAlchemy sessions.
    keep_request: bool | Callable[..., object] = False
    #: Whether a kept request may enter its view without credentials, when it is completed.
    completable: bool = False
    #: Dresses refusals: called with the problem and the response made of it, returns the response to send.
    refusal: Callable[..., Any] | None = None

    def __new__(cls, **options: object) -> "Policy":
        # Before the generated __init__ sees it, a misspelt option gets an error that helps.
        check_names(options)
        return object.__new__(cls)

    def __post_init__(self) -> None:
        settle = object.__setattr__
        settle(self, "methods", _methods(self.methods))
        settle(self, "principal", _principal(self.principal))
        settle(self, "retention", _seconds("retention", self.retention, zero=False))
        settle(self, "lease", _seconds("lease", self.lease, zero=False))
        settle(self, "wait", _seconds("wait", self.wait, zero=True))
        if self.max_run is not None:
            settle(self, "max_run", _seconds("max_run", self.max_run, zero=False))
        _header("header", self.header)
        for name in ("required", "strict", "atomic", "completable", "keep_cookies", "durable_claims"):
            _require(name, getattr(self, name), isinstance(getattr(self, name), bool), "True or False")
        for name in ("key_from", "refusal"):
            value = getattr(self, name)
            _require(name, value, value is None or callable(value), "a callable or None")
        may_keep = isinstance(self.keep_request, bool) or callable(self.keep_request)
        _require("keep_request", self.keep_request, may_keep, "True, False, or a callable of the request")
        _choice("keep", self.keep, Keep, or_callable="the status code")
        _choice("on_lapse", self.on_lapse, OnLapse)
        _choice("on_error", self.on_error, OnError)
        _choice("on_conflict", self.on_conflict, OnConflict)
        _choice("on_store_error", self.on_store_error, OnStoreError)
        _choice("on_completion_error", self.on_completion_error, OnCompletionError)
        _choice("fingerprint", self.fingerprint, FingerprintBy, or_callable="the request")
        for name in ("key_from", "keep", "principal", "fingerprint", "keep_request", "refusal"):
            value = getattr(self, name)
            # What it returned would pass for a yes, or for a key that is another with each request.
            _require(name, value, not iscoroutinefunction(value), "a plain function, since nobody awaits it")
        for name in ("max_response_bytes", "spool_bytes", "max_waiters"):
            size = getattr(self, name)
            whole = isinstance(size, int) and not isinstance(size, bool) and size >= 0
            _require(name, size, whole, "a whole number, 0 or more")

    def keeps(self, status: int) -> bool:
        """Whether a response with this status code is kept; any other gives the key back."""
        if self.keep == "success":
            return 200 <= status < 300 or status in _SUCCESSFUL_REDIRECTS
        if self.keep == "all":
            return status not in _COME_AGAIN
        return bool(self.keep(status))


OPTIONS = tuple(field.name for field in fields(Policy))

#: What one view may not have of its own: where the key is looked for, and what is of the process.
_OF_THE_APPLICATION = {"header", "methods", "strict", "max_waiters", "spool_bytes"}

#: The options that `@idempotency.view` takes.
VIEW_OPTIONS = tuple(name for name in OPTIONS if name not in _OF_THE_APPLICATION)


def check_names(options: Iterable[str], *, known: Iterable[str] = OPTIONS) -> None:
    """Refuse options that do not exist, naming the one that was probably meant."""
    known = sorted(known)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise PolicyError(f"There is no option {name!r}.{meant} The options are: {', '.join(known)}.")


def _require(option: str, value: object, fine: bool, allowed: str) -> None:
    if not fine:
        raise PolicyError(f"{option} must be {allowed}, not {value!r}.")


def _choice(option: str, value: object, choices: Any, *, or_callable: str | None = None) -> None:
    names = get_args(choices)
    allowed = " or ".join(map(repr, names)) + (f", or a callable of {or_callable}" if or_callable else "")
    fine = (isinstance(value, str) and value in names) or (or_callable is not None and callable(value))
    _require(option, value, fine, allowed)


def _seconds(option: str, value: float | timedelta, *, zero: bool) -> float:
    allowed = f"a number of seconds or a timedelta, {'0 or more' if zero else 'more than 0'}"
    if isinstance(value, timedelta):
        value = value.total_seconds()
    _require(option, value, isinstance(value, int | float) and not isinstance(value, bool), allowed)
    _require(option, value, 0 <= value <= sys.float_info.max and (zero or value > 0), allowed)
    return float(value)


def _methods(value: Iterable[str]) -> tuple[str, ...]:
    listed = isinstance(value, tuple | list | set | frozenset)
    allowed = "a list or tuple of method names, such as ('POST', 'PATCH')"
    _require("methods", value, listed and all(isinstance(m, str) and m.isalpha() for m in value), allowed)
    return tuple(dict.fromkeys(method.upper() for method in value))


def _principal(value: Any) -> Any:
    if value is None or callable(value) or value == "default":
        return value
    allowed = "'default', a callable, a list or tuple of header names and 'cookie:NAME', or None"
    _require("principal", value, isinstance(value, tuple | list) and len(value) > 0, allowed)
    for name in value:
        named = isinstance(name, str) and name.startswith("cookie:") and len(name) > len("cookie:")
        if not named:
            _header("principal", name)
    return tuple(value)


def _header(option: str, name: object) -> None:
    fine = isinstance(name, str) and name.replace("-", "").replace("_", "").isalnum() and name.isascii()
    _require(option, name, fine, "the name of a header")

"""The rules a resource sets for its idempotency keys."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Literal, get_args

OnLapse = Literal["rerun", "refuse"]
OnConflict = Literal["refuse", "rerun"]
OnStoreError = Literal["refuse", "run"]
Keep = Literal["success", "all"]
FingerprintBy = Literal["bytes", "json"]


class PolicyError(TypeError, ValueError):
    """An option that does not exist, or a value that it does not allow; says what would be allowed.

    Both a TypeError and a ValueError, since a wrong option can be either and is mended in the same place.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules in force for a request: what needs a key, what is kept, for how long, and what doubt does.

    Durations are seconds; a `timedelta` is accepted and converted. Every value is checked on creation.
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
    #: How long a concurrent repeat may be held until the first is done, instead of 409 at once.
    wait: float = 0.0
    #: Which responses are kept: 2xx, all, or those whose status the callable says yes to.
    keep: Keep | Callable[[int], bool] = "success"
    #: What a repeat does after the holder of the claim vanished.
    on_lapse: OnLapse = "rerun"
    #: What a request does when the store cannot be reached: 503, or run unprotected.
    on_store_error: OnStoreError = "refuse"
    #: Larger responses are not kept; they leave a tombstone.
    max_response_bytes: int = 1024 * 1024
    #: On whose behalf a request comes: a callable of the request, or the names of headers that tell.
    principal: Callable[..., object] | tuple[str, ...] | None = None
    #: Where this policy is documented; None for nowhere.
    docs_url: str | None = "/idempotency-policy"
    #: What of the payload is digested: its bytes, or, where it is JSON, its value.
    fingerprint: FingerprintBy = "bytes"
    #: Whether the view's rows and its kept answer commit in one transaction; needs SQLAlchemy sessions.
    atomic: bool = False
    #: What an atomic view does when its transaction met another's: 503, or run again a few times.
    on_conflict: OnConflict = "refuse"
    #: Whether requests are kept while they are worked on, so that `flask idempotency complete` can finish what a crash
    #: left; a callable of the request adds what the application needs then, as JSON. Needs SQLAlchemy sessions.
    keep_request: bool | Callable[..., object] = False
    #: Whether `Set-Cookie` is kept and replayed.
    keep_cookies: bool = False

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
        _header("header", self.header)
        for name in ("required", "strict", "atomic", "keep_cookies"):
            _require(name, getattr(self, name), isinstance(getattr(self, name), bool), "True or False")
        _require("key_from", self.key_from, self.key_from is None or callable(self.key_from), "a callable or None")
        may_keep = isinstance(self.keep_request, bool) or callable(self.keep_request)
        _require("keep_request", self.keep_request, may_keep, "True, False, or a callable of the request")
        _choice("keep", self.keep, Keep, or_callable=True)
        _choice("on_lapse", self.on_lapse, OnLapse)
        _choice("on_conflict", self.on_conflict, OnConflict)
        _choice("on_store_error", self.on_store_error, OnStoreError)
        _choice("fingerprint", self.fingerprint, FingerprintBy)
        size = self.max_response_bytes
        whole = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        _require("max_response_bytes", size, whole, "a whole number of bytes, 0 or more")
        url = self.docs_url
        local_or_absolute = url is None or (
            isinstance(url, str) and url.startswith(("/", "http://", "https://")) and _visible(url)
        )
        _require("docs_url", url, local_or_absolute, "a path that starts with '/', an http(s) URL, or None")

    def keeps(self, status: int) -> bool:
        """Whether a response with this status code is kept; any other gives the key back."""
        if self.keep == "success":
            return 200 <= status < 300
        if self.keep == "all":
            return True
        return bool(self.keep(status))


OPTIONS = tuple(field.name for field in fields(Policy))


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


def _choice(option: str, value: object, choices: Any, *, or_callable: bool = False) -> None:
    names = get_args(choices)
    allowed = " or ".join(map(repr, names)) + (", or a callable of the status code" if or_callable else "")
    _require(option, value, value in names or (or_callable and callable(value)), allowed)


def _seconds(option: str, value: float | timedelta, *, zero: bool) -> float:
    allowed = f"a number of seconds or a timedelta, {'0 or more' if zero else 'more than 0'}"
    if isinstance(value, timedelta):
        value = value.total_seconds()
    _require(option, value, isinstance(value, int | float) and not isinstance(value, bool), allowed)
    _require(option, value, 0 <= value < float("inf") and (zero or value > 0), allowed)
    return float(value)


def _methods(value: Iterable[str]) -> tuple[str, ...]:
    listed = isinstance(value, tuple | list | set | frozenset)
    allowed = "a list or tuple of method names, such as ('POST', 'PATCH')"
    _require("methods", value, listed and all(isinstance(m, str) and m.isalpha() for m in value), allowed)
    return tuple(dict.fromkeys(method.upper() for method in value))


def _principal(value: Any) -> Any:
    if value is None or callable(value):
        return value
    allowed = "a callable, or a list or tuple of header names"
    _require("principal", value, isinstance(value, tuple | list) and len(value) > 0, allowed)
    for name in value:
        _header("principal", name)
    return tuple(value)


def _header(option: str, name: object) -> None:
    fine = isinstance(name, str) and name.replace("-", "").replace("_", "").isalnum() and name.isascii()
    _require(option, name, fine, "the name of a header")


def _visible(text: str) -> bool:
    """Whether `text` can stand in a header as it is: visible ASCII, nothing that closes a `<…>` reference."""
    return all("!" <= char <= "~" for char in text) and not set('<>"') & set(text)

"""What an answer says about trying again."""

import email.utils
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

#: Answers after which another attempt may fare better, whatever stands in them: too early, too many requests, and
#: the server's own troubles. A 409 needs a closer look.
_AGAIN = frozenset({425, 429, 500, 502, 503, 504})

#: The refusals of a flask_idempotency server that come with a 409 and are its last word.
_FINAL = ("outcome-unknown", "response-not-kept")


class Answer(Protocol):
    """What the responses of requests and httpx have in common. `headers` is case-insensitive."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


A = TypeVar("A", bound=Answer)


def may_ask_again(status: int) -> bool:
    """Whether an answer with this status may be one that `asks_again`."""
    return status in _AGAIN or status == 409


def asks_again(answer: A, content_of: Callable[[A], bytes | None]) -> bool:
    """Whether the request should be sent again. A 409 tells by its content."""
    if answer.headers.get("Idempotent-Replayed") == "true":
        return False  # it says the same for as long as the server keeps it
    if answer.status_code != 409:
        return answer.status_code in _AGAIN
    problem = _problem_type(answer.headers, lambda: content_of(answer))
    if problem.endswith("request-in-progress"):
        return True
    # Any other conflict is the application's word, unless it says when to come back.
    return not problem.endswith(_FINAL) and "Retry-After" in answer.headers


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait as `Retry-After` says (RFC 9110, section 10.2.3); 0 where it says nothing that makes sense."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+", value):
        return float(value)
    then = _instant(value)
    if then is None:
        return 0.0
    # Measured by the server's own clock where it tells the time, so that a skewed client waits no less.
    now = _instant(headers.get("Date", ""))
    return max(0.0, then - (time.time() if now is None else now))


def _instant(date: str) -> float | None:
    parsed = email.utils.parsedate_tz(date)
    if parsed is None:
        return None
    try:
        return float(email.utils.mktime_tz(parsed))
    except (OverflowError, ValueError):
        return None


def _problem_type(headers: Mapping[str, str], content: Callable[[], bytes | None]) -> str:
    """The `type` of a problem document (RFC 9457); empty where the answer is none."""
    if not headers.get("Content-Type", "").lower().startswith("application/problem+json"):
        return ""
    try:
        problem = json.loads(content() or b"")
    except ValueError:
        return ""
    kind = problem.get("type") if isinstance(problem, dict) else None
    return kind if isinstance(kind, str) else ""

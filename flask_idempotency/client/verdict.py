"""What an answer says about trying again."""

import email.utils
import re
import time
from collections.abc import Mapping
from typing import Protocol

#: Answers after which another attempt may fare better: too early, too many requests, and the server's own troubles.
_AGAIN = frozenset({425, 429, 500, 502, 503, 504})


class Answer(Protocol):
    """What the responses of requests and httpx have in common. `headers` is case-insensitive."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


def asks_again(answer: Answer) -> bool:
    """Whether the request should be sent again, by status and headers alone."""
    if answer.headers.get("Idempotent-Replayed") == "true":
        return False  # it says the same for as long as the server keeps it
    # A conflict is the server's last word, unless it says when to come back.
    return answer.status_code in _AGAIN or (answer.status_code == 409 and "Retry-After" in answer.headers)


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

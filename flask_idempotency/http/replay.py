"""What of a response is kept, and how it is answered again."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from ..engine.policy import Policy
from ..engine.records import StoredResponse

#: Tells the client that the answer is a repeat.
REPLAYED_HEADER = ("Idempotent-Replayed", "true")

# `Date` is the moment's, the others belong to one connection (RFC 9110, section 7.6.1, and RFC 2616's list).
_NEVER_KEPT = frozenset(
    {
        "connection",
        "date",
        "idempotent-replayed",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NEVER_KEPT_WITHOUT_COOKIES = _NEVER_KEPT | {"set-cookie"}

#: Most headers are kept, and their length says so without a look at their letters.
_LENGTHS = frozenset(map(len, _NEVER_KEPT_WITHOUT_COOKIES))


class HeaderFields(Protocol):
    """A list of pairs, or what werkzeug makes of one."""

    def __iter__(self) -> Iterator[tuple[str, str]]: ...

    def __len__(self) -> int: ...


def keep(status: str, headers: HeaderFields, body: bytes, policy: Policy) -> StoredResponse:
    """The response as it is kept."""
    dropped = _NEVER_KEPT if policy.keep_cookies else _NEVER_KEPT_WITHOUT_COOKIES
    kept = [field for field in headers if len(field[0]) not in _LENGTHS or field[0].lower() not in dropped]
    if len(kept) < len(headers):
        hop_by_hop = _named_by_connection(headers)
        if hop_by_hop:
            kept = [field for field in kept if field[0].lower() not in hop_by_hop]
    return StoredResponse(status, tuple(kept), body)


def _named_by_connection(headers: Iterable[tuple[str, str]]) -> set[str]:
    """What `Connection` says to be of this connection alone, too (RFC 9110, section 7.6.1)."""
    options = (value.split(",") for name, value in headers if name.lower() == "connection")
    return {option.strip().lower() for each in options for option in each}


def promised_length(headers: Iterable[tuple[str, str]]) -> int | None:
    """What Content-Length says; None where it is missing, or no number."""
    for name, value in headers:
        if len(name) == 14 and name.lower() == "content-length" and value.isascii() and value.isdigit():
            return int(value)
    return None


def replay_headers(response: StoredResponse) -> list[tuple[str, str]]:
    """The header fields with which a kept response is answered again."""
    return [*response.headers, REPLAYED_HEADER]

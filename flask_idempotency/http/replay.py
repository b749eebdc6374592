"""What of a response is kept, and how it is answered again."""

from collections.abc import Iterable

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


def keep(status: str, headers: Iterable[tuple[str, str]], body: bytes, policy: Policy) -> StoredResponse:
    """The response as it is kept."""
    dropped = _NEVER_KEPT if policy.keep_cookies else _NEVER_KEPT_WITHOUT_COOKIES
    kept = [(name, value) for name, value in headers if name.lower() not in dropped]
    for name, value in headers:
        if name.lower() == "connection":
            named = {token.strip().lower() for token in value.split(",")}
            kept = [(other, text) for other, text in kept if other.lower() not in named]
    return StoredResponse(status, tuple(kept), body)


def replay_headers(response: StoredResponse) -> list[tuple[str, str]]:
    """The header fields with which a kept response is answered again."""
    return [*response.headers, REPLAYED_HEADER]

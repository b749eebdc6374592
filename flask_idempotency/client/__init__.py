"""Clients that retry safely: one key per logical request, the same on each of its attempts.

    session.mount("https://", IdempotencyAdapter())                     # requests
    httpx.Client(transport=IdempotencyTransport())                      # httpx
    httpx.AsyncClient(transport=AsyncIdempotencyTransport())

Nothing here imports the server side, and each HTTP library is imported on first use of its own class.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .bodies import UnrepeatableBody
from .keys import key_for, new_key
from .pending import KeyOutlived, PendingKeys
from .policy import RetryPolicy

if TYPE_CHECKING:
    from .httpx import AsyncIdempotencyTransport, IdempotencyTransport
    from .requests import IdempotencyAdapter

__all__ = [
    "AsyncIdempotencyTransport",
    "IdempotencyAdapter",
    "IdempotencyTransport",
    "KeyOutlived",
    "PendingKeys",
    "RetryPolicy",
    "UnrepeatableBody",
    "key_for",
    "new_key",
]

_HOMES = {
    "AsyncIdempotencyTransport": ".httpx",
    "IdempotencyAdapter": ".requests",
    "IdempotencyTransport": ".httpx",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)

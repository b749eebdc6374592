"""Where idempotency keys come from."""

import json
import uuid
from collections.abc import MutableMapping

from .policy import RetryPolicy

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:flask-idempotency:key")


def new_key() -> str:
    """A key for one new operation: random, so that no two operations share it."""
    return str(uuid.uuid4())


def key_for(operation: str, *ids: str | int | uuid.UUID) -> str:
    """The key of an operation on a business object: `key_for("charge", order.id)` is the same key for ever.

    A client that was restarted in mid-operation computes it anew and repeats the request safely, with nothing to
    remember. Where an object may see the operation more than once (a second partial refund), one of the `ids` must
    tell which: `key_for("refund", order.id, refund_number)`. The key protects for as long as the server keeps its
    records (24 hours unless set): an operation that may be repeated later needs its own check.

    It is a UUID, version 5, of the JSON array of the arguments as strings, in `uuid5(NAMESPACE_URL,
    "urn:flask-idempotency:key")`, so that programs in other languages can compute it too. Raises `ValueError` for an
    id that is missing: the `None` of an object not yet saved would be the key of every such object.
    """
    for part in (operation, *ids):
        if not isinstance(part, str | int | uuid.UUID) or isinstance(part, bool) or part == "":
            raise ValueError(f"A key is made of non-empty strings, integers and UUIDs, not of {part!r}.")
    if not ids:
        raise ValueError("A key without the id of an object would be shared by all of them.")
    name = json.dumps([operation, *map(str, ids)], separators=(",", ":"), ensure_ascii=False)
    return str(uuid.uuid5(_NAMESPACE, name))


def sign(method: str, headers: MutableMapping[str, str], policy: RetryPolicy) -> bool:
    """Put a new key into the headers (case-insensitive) of a request that should have one and has none.

    Returns whether the request carries a key now. A key that is there stays as it is: the caller's, or the one that
    an earlier attempt, a redirect or an authentication round left, since all of them are one logical request.
    """
    if policy.header in headers:
        return True
    if method.upper() not in policy.methods:
        return False
    key = new_key()
    headers[policy.header] = f'"{key}"' if policy.quoted else key
    return True

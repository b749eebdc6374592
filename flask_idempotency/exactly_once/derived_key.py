"""Keys for the calls that a handler makes to others, so that they can recognise the repeat, too."""

import uuid
from hashlib import blake2b

from ..engine.attempt import Attempt


def derive_key(attempt: Attempt, name: str) -> str:
    """A UUID that is the same in every attempt at this operation, and another for every other `name` or operation.

    It is derived from the idempotency key and the principal, neither of which can be read from it. It is a version 8
    UUID, made from a digest (RFC 9562, section 5.8).
    """
    digest = bytearray(blake2b(attempt.claim.record_id + name.encode(), digest_size=16, person=b"derived key").digest())
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(digest)))

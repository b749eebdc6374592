"""Keys for the calls that a handler makes to others, so that they can recognise the repeat, too."""

import uuid
from hashlib import blake2b

from ..engine.attempt import Attempt
from ..engine.digests import digest


def derive_key(attempt: Attempt, name: str) -> str:
    """A UUID that is the same in every attempt at this operation, and another for every other `name` or operation.

    It is derived from the namespace, the principal, the key, and what the request asks for: a key that was given back
    may be used for another payload, and the other side must not take that for a repeat. What a session adds to the
    fingerprint has no part in it, since a rerun may come with another. None of it can be read from it. It is a version
    8 UUID, made from a digest (RFC 9562, section 5.8).
    """
    # The first two parts are of fixed length: no two lists of parts read the same.
    operation = attempt.claim.record.id + digest(attempt.request_fingerprint)
    made = bytearray(blake2b(operation + name.encode(), digest_size=16, person=b"derived key").digest())
    made[6] = made[6] & 0x0F | 0x80
    made[8] = made[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(made)))

"""What a store keeps for one (principal, key), and the answers it gives about it."""

import json
from dataclasses import dataclass
from typing import Self

from .digests import digest

#: `json.dumps` would make an encoder each time.
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class RecordKey:
    """Names one operation of one principal. A digest: neither the key nor the principal can be read from it."""

    id: bytes

    @classmethod
    def of(cls, principal: bytes, key: str) -> Self:
        """The identity of `key` as sent on behalf of `principal`, which is itself a digest of fixed length."""
        return cls(digest(principal + key.encode()))


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run the request until the lease ends.

    The token is random, not a counter: a counter could come back after the record was purged.
    """

    record_id: bytes
    token: bytes


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it is kept: the status line, the headers in their order, and the bytes of the body."""

    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def pack(self) -> bytes:
        """One value for the stores that keep bytes; `unpack` is its inverse."""
        head = _encode((self.status, self.headers)).encode()
        return len(head).to_bytes(4, "big") + head + self.body

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Raises `ValueError` where `packed` did not come from `pack`."""
        end = 4 + int.from_bytes(packed[:4], "big")
        if len(packed) < end or end <= 4:
            raise ValueError("not a packed response")
        try:
            status, headers = json.loads(packed[4:end])
            return cls(status, tuple([(name, value) for name, value in headers]), packed[end:])
        except (TypeError, ValueError) as error:
            raise ValueError("not a packed response") from error


@dataclass(frozen=True, slots=True)
class Claimed:
    """The request may run.

    `lapsed`: an earlier holder vanished. `number`: 1 for the first attempt since the key was free.
    """

    claim: Claim
    lapsed: bool
    number: int


@dataclass(frozen=True, slots=True)
class InProgress:
    """Somebody else holds the claim until `lease_ends` (epoch seconds of this host's clock).

    `lapsed`: that lease is over, but the record may not be taken over: the fingerprint is another's, or the
    policy refuses.
    """

    fingerprint: bytes
    lease_ends: float
    lapsed: bool


@dataclass(frozen=True, slots=True)
class Completed:
    """The request was done. A response of None is a tombstone: it stops a second run, it cannot replay."""

    fingerprint: bytes
    response: StoredResponse | None

"""What a store keeps for one (namespace, principal, key), and the answers it gives about it."""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self

from .digests import digest

#: `json.dumps` would make an encoder each time.
_encode = json.JSONEncoder(separators=(",", ":")).encode


# Of an application's answers many have the same head, and JSON is most of what it costs to write or read one.
@lru_cache(maxsize=256)
def _write_head(status: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    return _encode((status, headers)).encode()


@lru_cache(maxsize=256)
def _read_head(head: bytes) -> tuple[str, tuple[tuple[str, str], ...]]:
    status, headers = json.loads(head)
    return status, tuple([(name, value) for name, value in headers])


@dataclass(frozen=True, slots=True)
class RecordKey:
    """Names one operation of one principal of one application.

    `id` alone decides, and neither the key nor the principal can be read from it. The rest is for whoever operates the
    store: the key as it was sent, and what it was first sent to.
    """

    id: bytes
    key: str = field(default="", repr=False)  # a repr ends up in logs
    method: str = ""
    path: str = ""

    @classmethod
    def of(cls, principal: bytes, key: str, *, namespace: bytes = b"", method: str = "", path: str = "") -> Self:
        """The identity of `key`, sent on behalf of `principal`; this and `namespace` are digests of fixed length."""
        return cls(digest(namespace + principal + key.encode()), key, method, path)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run the request until the lease ends.

    The token is random, not a counter: a counter could come back after the record was purged.
    """

    record: RecordKey
    fingerprint: bytes
    token: bytes


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it is kept: the status line, the headers in their order, and the bytes of the body."""

    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def pack(self) -> bytes:
        """One value for the stores that keep bytes; `unpack` is its inverse."""
        head = _write_head(self.status, self.headers)
        return len(head).to_bytes(4, "big") + head + self.body

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Raises `ValueError` where `packed` did not come from `pack`."""
        end = 4 + int.from_bytes(packed[:4], "big")
        if len(packed) < end or end <= 4:
            raise ValueError("not a packed response")
        try:
            status, headers = _read_head(packed[4:end])
            return cls(status, headers, packed[end:])
        except (TypeError, ValueError) as error:
            raise ValueError("not a packed response") from error


@dataclass(frozen=True, slots=True)
class Claimed:
    """The request may run. `number`: 1 for the first attempt. `lapsed`: an earlier holder vanished."""

    claim: Claim
    number: int
    lapsed: bool


@dataclass(frozen=True, slots=True)
class InProgress:
    """Somebody else holds the claim, made at `started`, until `lease_ends`: epoch seconds of this host's clock."""

    fingerprint: bytes
    started: float
    lease_ends: float


@dataclass(frozen=True, slots=True)
class Lapsed:
    """The holder vanished, and its claim was not taken over: `take_over` forbids it, or the fingerprint is another.

    The same is said of a record that was abandoned, and, to another fingerprint, of one that was released after a step
    was kept.
    """

    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Completed:
    """The request was done. A response of None is a tombstone: it stops a second run, it cannot replay."""

    fingerprint: bytes
    response: StoredResponse | None


#: What a store answers to a claim.
Standing = Claimed | InProgress | Lapsed | Completed

"""What the engine asks of a store. Each store fulfils it by one atomic decision per call."""

from collections.abc import Iterable
from typing import Protocol

from .records import Claim, Claimed, Completed, InProgress, RecordKey, StoredResponse


class StoreUnavailable(Exception):
    """The store could not be reached, or answered with something that no decision can rest on.

    Raised instead of the driver's own errors, `from` them. Its text names the store and the trouble, never a key,
    a body or a credential.
    """


class RecordUnreadable(StoreUnavailable):
    """A record stands there, and cannot be read: corrupt, or encrypted under an unknown key.

    The work may be done. Whatever the policy says of a store out of reach, it is not done again.
    """


def kept_response(packed: bytes | None) -> StoredResponse | None:
    """The response that `StoredResponse.pack` made `packed` of; None for a tombstone. Raises `RecordUnreadable`."""
    if packed is None:
        return None
    try:
        return StoredResponse.unpack(packed)
    except ValueError as error:
        raise RecordUnreadable("a kept response cannot be read") from error


class Store(Protocol):
    """Keeps records. Safe to call from many threads; every method may raise `StoreUnavailable`.

    The test suite that a store must pass is `flask_idempotency.testing.StoreContract`.
    """

    def claim(
        self, record: RecordKey, fingerprint: bytes, *, lease: float, retention: float, take_over: bool = True
    ) -> Claimed | InProgress | Completed:
        """Decide, in one atomic step, whether this request may run.

        A free record, or one whose `retention` is over, is claimed for `lease` seconds. A lapsed claim is taken
        over only for the same fingerprint, and only with `take_over`; it is remembered for `retention` seconds from
        the claim. Without `take_over`, the claim itself must survive power loss, since it alone tells later that
        the outcome is unknown.
        """
        ...

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """Keep the answer for `retention` seconds; False means fenced. None leaves a tombstone.

        Durable when it returns. The same claim may complete again: a repeat whose reply was lost recognises itself,
        and a tombstone becomes the response once that has ended whole.
        """
        ...

    def release(self, claim: Claim) -> bool:
        """Give the key back, so that the next request runs afresh; False means fenced or already given back."""
        ...

    def renew(self, claims: Iterable[Claim], *, lease: float) -> None:
        """Prolong these claims to `lease` seconds from now. Claims that are no longer held stay as they are."""
        ...

    def purge(self, *, limit: int) -> int:
        """Delete up to `limit` records whose retention is over; returns how many. 0 where the server expires them."""
        ...

    def close(self) -> None:
        """Let go of files and connections. The store may be used again: it reopens them."""
        ...

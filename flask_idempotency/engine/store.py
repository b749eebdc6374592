"""What the engine asks of a store. Each store fulfils it by one atomic decision per call."""

from collections.abc import Collection, Mapping
from typing import Protocol

from .records import Claim, RecordKey, Standing, StoredResponse


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

    Durations are seconds. Sent again with the same token, since the reply was lost, a claim or a completion recognises
    itself. The test suite that a store must pass is `flask_idempotency.testing.StoreContract`.
    """

    def claim(
        self,
        record: RecordKey,
        fingerprint: bytes,
        *,
        lease: float,
        retention: float,
        take_over: bool,
        durable: bool,
    ) -> Standing:
        """Decide, in one atomic step, whether this request may run, under a new random token.

        It may where there is no record, where the retention of one is over, where one was released, and where the claim
        has lapsed, the fingerprint is the same, and `take_over` says so. A record that was released after a step was
        kept takes the same fingerprint only. Anything else changes nothing.

        The record then lives until the later of the end of its lease and `retention` from now; without `take_over`,
        until it is completed, released or resolved, whatever the time. `durable`: the claim must survive power loss.
        """
        ...

    def answering(self, claim: Claim, *, lease: float) -> bool:
        """The handler has returned, and its response is about to be streamed; False means fenced.

        The record is in progress for `lease` from now, and goes on to be renewed. Should its lease end, it is completed
        without a response: nobody runs it again. A record that the same claim has completed stays as it is.
        """
        ...

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """Keep the answer for `retention` from now; False means fenced. None leaves a tombstone.

        Survives power loss when it returns. It counts while the token is the record's, its lease ended or not; a record
        that is gone altogether is inserted anew. The same claim may complete again: a tombstone becomes the response,
        never the other way about.
        """
        ...

    def release(self, claim: Claim, *, retention: float) -> bool:
        """Give the key back, so that the next request runs afresh; False means fenced, or completed.

        The record keeps its fingerprint, its count of attempts and its steps for `retention` from now. One that is gone
        is not fenced.
        """
        ...

    def abandon(self, claim: Claim) -> bool:
        """The outcome is unknown: `claim` answers `Lapsed` from now on, whatever `take_over` says; False means fenced.

        The record has no expiry until it is resolved. Survives power loss when it returns.
        """
        ...

    def resolve(self, record_id: bytes, *, done: bool, retention: float) -> bool:
        """A person knows what became of it: it leaves a tombstone, or is released, for `retention` from now.

        What began of its steps and was not kept was not done either then, and is forgotten; results stay.

        False where there is no such record, or its outcome is known: a live claim, a completed record.
        """
        ...

    def renew(self, claims: Collection[Claim], *, lease: float) -> set[Claim]:
        """Prolong these claims to `lease` from now; returns those that were fenced. One that is gone is not fenced."""
        ...

    def load_steps(self, claim: Claim) -> Mapping[str, bytes | None]:
        """What was kept of the steps of this record, by any attempt; None for one that began and was not kept."""
        ...

    def keep_step(self, claim: Claim, name: str, result: bytes | None, *, retention: float) -> bool:
        """Keep the result of a step, or None: that it is about to begin; False means fenced, and nothing was kept.

        Survives power loss when it returns. From the first kept result on (a mark that a step began is none), another
        fingerprint may not use the record once it is released. The record lives for `retention` from now, at least.
        None never replaces a result.
        """
        ...

    def drop_step(self, claim: Claim, name: str) -> bool:
        """Forget that a step began: its function raised. A result stays. False means fenced."""
        ...

    def purge(self, *, limit: int) -> int:
        """Delete up to `limit` records whose time is over; returns how many. 0 where the server expires them."""
        ...

    def close(self) -> None:
        """Let go of files and connections. The store may be used again: it reopens them."""
        ...

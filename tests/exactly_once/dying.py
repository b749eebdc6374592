"""What a process leaves that died between its commit and the end of its record, without the death."""

from collections.abc import Collection

from flask_idempotency.engine import outages
from flask_idempotency.engine.heartbeat import heartbeat
from flask_idempotency.engine.records import Claim, StoredResponse
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import MemoryStore


def forget_outages() -> None:
    """Be a process that has never seen a store away."""
    for outage in outages._by_store.values():
        outage.seen, outage._failing, outage._calm_until = False, False, 0.0


class DyingStore(MemoryStore):
    """A store that, while `dead`, loses the ends of attempts for good: as if the process had died before it."""

    def __init__(self) -> None:
        super().__init__()
        self.dead = False
        self._lost: set[bytes] = set()
        self._asleep: set[bytes] = set()

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        self._lose(claim)
        return super().complete(claim, response, retention=retention)

    def release(self, claim: Claim, *, retention: float) -> bool:
        self._lose(claim)
        return super().release(claim, retention=retention)

    def renew(self, claims: Collection[Claim], *, lease: float) -> set[Claim]:
        """Nobody renews for those whose process sleeps, though the heartbeat that it shares with others goes on."""
        return super().renew([claim for claim in claims if claim.token not in self._asleep], lease=lease)

    def _lose(self, claim: Claim) -> None:
        if self.dead:
            self._lost.add(claim.token)
        if claim.token in self._lost:
            raise StoreUnavailable("dead")

    def die(self) -> None:
        """Let the process be dead for as long as its leases last; then another asks."""
        heartbeat.owed.clear()
        heartbeat._beats.clear()
        forget_outages()
        self.dead = False
        self.let_leases_end()

    def let_leases_end(self) -> None:
        """Make every claim lapse."""
        for record in self._records.values():
            record.lease_ends = 0.0
            self._asleep.add(record.claim.token)

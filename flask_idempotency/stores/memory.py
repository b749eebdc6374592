"""Records in this process's memory: for tests, and for a service that runs as one process."""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

from ..engine import clock
from ..engine.forks import call_in_child
from ..engine.records import Claim, Claimed, Completed, InProgress, Lapsed, RecordKey, Standing, StoredResponse
from .states import ABANDONED, ANSWERING, CLAIMED, COMPLETED, LOST_RETENTION, RELEASED
from .tokens import new_token


@dataclass(slots=True)
class _Record:
    claim: Claim
    number: int
    state: int
    started: float
    lease_ends: float  # means nothing once the state is neither claimed nor answering
    retention: float
    expires_at: float
    noted: float  # the expiry under which the sweep finds it, never later than the real one; infinite where it does not
    response: StoredResponse | None = None
    steps: dict[str, bytes | None] = field(default_factory=dict)

    def is_done(self, now: float) -> bool:
        """Whether it never runs again: completed, or its response broke off."""
        return self.state == COMPLETED or (self.state == ANSWERING and self.lease_ends <= now)


class MemoryStore:
    """Records in memory. Other processes do not see them, and they end with the process."""

    #: Front ends warn where the server has several.
    of_one_process = True

    def __init__(self) -> None:
        self._records: dict[bytes, _Record] = {}
        self._expiries: list[tuple[float, bytes]] = []
        self._begin_process()
        call_in_child(self._begin_process)

    def _begin_process(self) -> None:
        # A child must not inherit a lock that some thread of its parent held.
        self._lock = threading.Lock()

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
        """See `Store.claim`. Nothing here survives power loss, `durable` or not."""
        with self._lock:
            now = clock.now()
            found = self._records.get(record.id)
            lapsed, number = False, 1
            if found is not None and found.expires_at > now:
                standing = _standing(found, fingerprint, now, take_over)
                if standing is not None:
                    return standing
                lapsed, number = found.state == CLAIMED, found.number + 1
            claim = Claim(record, fingerprint, new_token())
            expires_at = now + max(lease, retention) if take_over else inf
            made = _Record(claim, number, CLAIMED, now, now + lease, retention, expires_at, inf)
            if found is not None:
                made.noted = found.noted
                if number > 1:
                    made.steps = found.steps
            self._records[record.id] = made
            if expires_at < made.noted:
                self._note(made)
            return Claimed(claim, number, lapsed)

    def answering(self, claim: Claim, *, lease: float) -> bool:
        """See `Store.answering`."""
        with self._lock:
            now = clock.now()
            record = self._held(claim, now, retention=LOST_RETENTION)
            if record is None or record.state in (RELEASED, ABANDONED):
                return False
            if record.state != COMPLETED:
                record.state = ANSWERING
                record.lease_ends = now + lease
                self._expire(record, record.lease_ends + record.retention)
            return True

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """See `Store.complete`."""
        with self._lock:
            now = clock.now()
            record = self._held(claim, now, retention=retention)
            if record is None or record.state == RELEASED:
                return False
            record.state = COMPLETED
            if response is not None:
                record.response = response
            self._expire(record, now + retention)
            return True

    def release(self, claim: Claim, *, retention: float) -> bool:
        """See `Store.release`."""
        with self._lock:
            now = clock.now()
            record = self._records.get(claim.record.id)
            if record is None or record.expires_at <= now:
                return True
            if record.claim.token != claim.token or record.is_done(now):
                return False
            record.state = RELEASED
            self._expire(record, now + retention)
            return True

    def abandon(self, claim: Claim) -> bool:
        """See `Store.abandon`."""
        with self._lock:
            now = clock.now()
            record = self._held(claim, now, retention=LOST_RETENTION)
            if record is None or record.state == RELEASED:
                return False
            if not record.is_done(now):
                record.state = ABANDONED
                record.expires_at = inf
            return True

    def resolve(self, record_id: bytes, *, done: bool, retention: float) -> bool:
        """See `Store.resolve`."""
        with self._lock:
            now = clock.now()
            record = self._records.get(record_id)
            if record is None or record.expires_at <= now:
                return False
            if record.state != ABANDONED and not (record.state == CLAIMED and record.lease_ends <= now):
                return False
            record.state = COMPLETED if done else RELEASED
            record.steps = {name: result for name, result in record.steps.items() if result is not None}
            self._expire(record, now + retention)
            return True

    def renew(self, claims: Collection[Claim], *, lease: float) -> set[Claim]:
        """See `Store.renew`."""
        fenced = set()
        with self._lock:
            now = clock.now()
            for claim in claims:
                record = self._records.get(claim.record.id)
                if record is None:
                    continue
                if record.claim.token != claim.token:
                    if record.expires_at > now:
                        fenced.add(claim)
                elif record.state == CLAIMED:
                    record.lease_ends = now + lease
                    record.expires_at = max(record.expires_at, record.lease_ends)
                elif record.state == ANSWERING:
                    record.lease_ends = now + lease
                    record.expires_at = max(record.expires_at, record.lease_ends + record.retention)
        return fenced

    def load_steps(self, claim: Claim) -> Mapping[str, bytes | None]:
        """See `Store.load_steps`."""
        with self._lock:
            record = self._records.get(claim.record.id)
            return dict(record.steps) if record else {}

    def keep_step(self, claim: Claim, name: str, result: bytes | None, *, retention: float) -> bool:
        """See `Store.keep_step`."""
        with self._lock:
            now = clock.now()
            record = self._running(claim)
            if record is None:
                return False
            if result is not None or name not in record.steps:
                record.steps[name] = result
            record.expires_at = max(record.expires_at, now + retention)
            return True

    def drop_step(self, claim: Claim, name: str) -> bool:
        """See `Store.drop_step`."""
        with self._lock:
            record = self._running(claim)
            if record is None:
                return False
            if name in record.steps and record.steps[name] is None:
                del record.steps[name]
            return True

    def purge(self, *, limit: int) -> int:
        """See `Store.purge`."""
        purged = 0
        with self._lock:
            now = clock.now()
            # Of what was claimed anew, an expiry is left behind: what is looked at is bounded as well.
            for _ in range(2 * limit):
                if purged == limit or not self._expiries or self._expiries[0][0] > now:
                    break
                noted, record_id = heappop(self._expiries)
                record = self._records.get(record_id)
                if record is None or record.noted != noted:
                    continue
                if record.expires_at <= now:
                    del self._records[record_id]
                    purged += 1
                else:
                    # It lives longer than was foreseen when its expiry was noted.
                    self._note(record)
        return purged

    def close(self) -> None:
        """Forget every record."""
        with self._lock:
            self._records.clear()
            self._expiries.clear()

    def _held(self, claim: Claim, now: float, *, retention: float) -> _Record | None:
        """The record, where it is this claim's; made anew where it is gone altogether."""
        record = self._records.get(claim.record.id)
        if record is not None and record.claim.token == claim.token:
            return record
        if record is not None and record.expires_at > now:
            return None
        noted = inf if record is None else record.noted
        made = _Record(claim, 1, CLAIMED, now, now, retention, inf, noted)
        self._records[claim.record.id] = made
        return made

    def _running(self, claim: Claim) -> _Record | None:
        record = self._records.get(claim.record.id)
        mine = record is not None and record.claim.token == claim.token and record.state in (CLAIMED, ANSWERING)
        return record if mine else None

    def _expire(self, record: _Record, expires_at: float) -> None:
        record.expires_at = expires_at
        if expires_at < record.noted:
            self._note(record)

    def _note(self, record: _Record) -> None:
        record.noted = record.expires_at
        if record.noted != inf:
            heappush(self._expiries, (record.noted, record.claim.record.id))


def _standing(found: _Record, fingerprint: bytes, now: float, take_over: bool) -> Standing | None:
    """What stands in the way of a claim; None where nothing does."""
    if found.is_done(now):
        return Completed(found.claim.fingerprint, found.response)
    if found.state == ABANDONED:
        return Lapsed(found.claim.fingerprint)
    if found.state == RELEASED:
        bound = found.claim.fingerprint != fingerprint and any(result is not None for result in found.steps.values())
        return Lapsed(found.claim.fingerprint) if bound else None
    if found.lease_ends > now:
        return InProgress(found.claim.fingerprint, found.started, found.lease_ends)
    return None if take_over and found.claim.fingerprint == fingerprint else Lapsed(found.claim.fingerprint)

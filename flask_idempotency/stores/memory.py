"""Records in this process's memory: for tests, and for a service that runs as one process."""

import heapq
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from ..engine import clock
from ..engine.forks import call_in_child
from ..engine.records import Claim, Claimed, Completed, InProgress, RecordKey, StoredResponse

#: Bytes of a token.
_TOKEN = 16
_TOKENS_AT_A_TIME = 256


@dataclass(slots=True)
class _Record:
    fingerprint: bytes
    token: bytes
    number: int
    lease_ends: float | None  # None once completed
    expires_at: float
    response: StoredResponse | None = None


class MemoryStore:
    """Records in memory. Other processes do not see them, and they end with the process."""

    def __init__(self) -> None:
        self._records: dict[bytes, _Record] = {}
        self._expiries: list[tuple[float, bytes]] = []
        self._begin_process()
        call_in_child(self._begin_process)

    def _begin_process(self) -> None:
        # A child must not inherit a lock that some thread of its parent held, nor give the tokens of its parent.
        self._lock = threading.Lock()
        self._tokens: list[bytes] = []

    def claim(
        self, record: RecordKey, fingerprint: bytes, *, lease: float, retention: float, take_over: bool = True
    ) -> Claimed | InProgress | Completed:
        """See `Store.claim`."""
        with self._lock:
            now = clock.now()
            found = self._records.get(record.id)
            if found is None or found.expires_at <= now:
                number = 1
            elif found.lease_ends is None:
                return Completed(found.fingerprint, found.response)
            elif found.lease_ends <= now and take_over and found.fingerprint == fingerprint:
                number = found.number + 1
            else:
                return InProgress(found.fingerprint, found.lease_ends, lapsed=found.lease_ends <= now)
            token = self._new_token()
            lease_ends = now + lease
            expires_at = max(lease_ends, now + retention)
            self._records[record.id] = _Record(fingerprint, token, number, lease_ends, expires_at)
            heapq.heappush(self._expiries, (expires_at, record.id))
            return Claimed(Claim(record.id, token), lapsed=number > 1, number=number)

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """See `Store.complete`."""
        with self._lock:
            record = self._held(claim)
            if record is None:
                return False
            record.lease_ends = None
            record.response = response or record.response
            record.expires_at = clock.now() + retention
            return True

    def release(self, claim: Claim) -> bool:
        """See `Store.release`."""
        with self._lock:
            record = self._held(claim)
            if record is None or record.lease_ends is None:
                return False
            del self._records[claim.record_id]
            return True

    def renew(self, claims: Iterable[Claim], *, lease: float) -> None:
        """See `Store.renew`."""
        with self._lock:
            lease_ends = clock.now() + lease
            for claim in claims:
                record = self._held(claim)
                if record is not None and record.lease_ends is not None:
                    record.lease_ends = lease_ends
                    record.expires_at = max(record.expires_at, lease_ends)

    def purge(self, *, limit: int) -> int:
        """See `Store.purge`."""
        purged = 0
        with self._lock:
            now = clock.now()
            # Of what was given back, an expiry is left behind: what is looked at is bounded as well.
            for _ in range(2 * limit):
                if purged == limit or not self._expiries or self._expiries[0][0] > now:
                    break
                _, record_id = heapq.heappop(self._expiries)
                record = self._records.get(record_id)
                if record is None:
                    continue
                if record.expires_at <= now:
                    del self._records[record_id]
                    purged += 1
                else:
                    # Renewed or completed since its expiry was noted.
                    heapq.heappush(self._expiries, (record.expires_at, record_id))
        return purged

    def close(self) -> None:
        """Forget every record."""
        with self._lock:
            self._records.clear()
            self._expiries.clear()

    def _new_token(self) -> bytes:
        if not self._tokens:
            # Many at a time: a system call for each would be a third of what a claim costs.
            random = os.urandom(_TOKENS_AT_A_TIME * _TOKEN)
            self._tokens = [random[begin : begin + _TOKEN] for begin in range(0, len(random), _TOKEN)]
        return self._tokens.pop()

    def _held(self, claim: Claim) -> _Record | None:
        record = self._records.get(claim.record_id)
        return record if record is not None and record.token == claim.token else None

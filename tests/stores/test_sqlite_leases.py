"""Leases when the file makes their holders wait."""

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from flask_idempotency.engine.records import Claim, Claimed, Completed, InProgress, RecordKey
from flask_idempotency.stores import SQLiteStore

from .usual import BRIEF, FINGERPRINT, PLAIN, USUAL

RECORD = RecordKey(b"r" * 16)
TIMEOUT = 20.0


class LockedStore:
    """A store whose file another process holds locked."""

    def __init__(self, path: Path) -> None:
        self.store = SQLiteStore(path)
        self.store.purge(limit=1)
        self._other = sqlite3.connect(path, isolation_level=None)

    def lease_ends_after_wait(self, act: "threading.Thread") -> tuple[float, float]:
        """When the lock was given up, and when the lease ends that `act` wrote once it had it."""
        self._other.execute("BEGIN IMMEDIATE")
        act.start()
        time.sleep(0.2)  # the longer, the more a lease reckoned from before would lack
        given_up = time.time()
        self._other.execute("ROLLBACK")
        act.join(TIMEOUT)
        ((lease_ends,),) = self._other.execute("SELECT lease_ends FROM idempotency_records").fetchall()
        return given_up, lease_ends


@pytest.fixture
def locked(tmp_path: Path) -> LockedStore:
    return LockedStore(tmp_path / "idempotency.db")


def test_a_claim_that_waited_for_its_turn_is_held_from_then_on(locked: LockedStore) -> None:
    """Else one that waited longer than its lease would be there for anyone to take over, its handler just begun."""
    claim = threading.Thread(
        target=locked.store.claim, args=(RECORD, FINGERPRINT), kwargs=PLAIN | {"lease": 1.0, "retention": 60.0}
    )
    given_up, lease_ends = locked.lease_ends_after_wait(claim)
    assert lease_ends >= given_up + 1.0


def test_a_renewal_that_waited_for_its_turn_counts_from_then_on(locked: LockedStore) -> None:
    outcome = locked.store.claim(RECORD, FINGERPRINT, **PLAIN, lease=1.0, retention=60.0)
    assert isinstance(outcome, Claimed)
    renew = threading.Thread(target=locked.store.renew, args=([outcome.claim],), kwargs={"lease": 1.0})
    given_up, lease_ends = locked.lease_ends_after_wait(renew)
    assert lease_ends >= given_up + 1.0


def test_repeats_are_answered_while_the_file_is_locked(locked: LockedStore) -> None:
    """What stands in the record is read without any lock."""
    outcome = locked.store.claim(RECORD, FINGERPRINT, **USUAL)
    assert isinstance(outcome, Claimed)
    done = RecordKey(b"d" * 16)
    finished = locked.store.claim(done, FINGERPRINT, **USUAL)
    assert isinstance(finished, Claimed)
    assert locked.store.complete(finished.claim, None, retention=60.0)
    assert not locked.store.complete(Claim(done, FINGERPRINT, b"another's token!"), None, retention=60.0)
    locked._other.execute("BEGIN IMMEDIATE")
    assert isinstance(locked.store.claim(RECORD, FINGERPRINT, **BRIEF), InProgress)
    assert locked.store.claim(done, FINGERPRINT, **BRIEF) == Completed(FINGERPRINT, None)
    locked._other.execute("ROLLBACK")

"""What only the store in memory must see to: its own tidiness."""

import multiprocessing
from itertools import pairwise
from multiprocessing.connection import Connection

import pytest
from freezegun import freeze_time

from flask_idempotency.engine.clock import now
from flask_idempotency.engine.records import Claimed, RecordKey
from flask_idempotency.stores import MemoryStore

from .usual import FINGERPRINT, USUAL, claimed


def test_no_purge_looks_at_all_that_lives_longer_than_was_foreseen() -> None:
    store = MemoryStore()
    with freeze_time("2026-11-24 12:00:00") as clock:
        claims = [claimed(store.claim(RecordKey(b"%16d" % number), FINGERPRINT, **USUAL)) for number in range(1000)]
        store.renew(claims, lease=600.0)
        clock.tick(61.0)
        due = [1000]
        for _ in range(60):
            assert store.purge(limit=10) == 0
            due.append(sum(expiry <= now() for expiry, _ in store._expiries))
    assert max(before - after for before, after in pairwise(due)) == 20
    assert due[-1] == 0


def test_a_key_that_is_tried_again_and_again_leaves_no_more_behind_than_any_other() -> None:
    store = MemoryStore()
    for _ in range(100):
        store.release(claimed(store.claim(RecordKey(b"r" * 16), FINGERPRINT, **USUAL)), retention=60.0)
    assert len(store._expiries) == 1


def test_whatever_becomes_of_records_they_and_their_expiries_are_gone_in_the_end() -> None:
    store = MemoryStore()
    with freeze_time("2026-11-24 12:00:00") as clock:
        for number in range(500):
            take_over = number % 2 == 0
            options = USUAL | {"lease": 1.0, "take_over": take_over}
            claim = claimed(store.claim(RecordKey(b"%16d" % number), FINGERPRINT, **options))
            clock.tick(0.1)
            match number % 5:
                case 0:
                    store.complete(claim, None, retention=60.0)
                case 1:
                    store.release(claim, retention=60.0)
                case 2:
                    store.answering(claim, lease=1.0)
                case 3:
                    store.renew([claim], lease=90.0)
                    store.complete(claim, None, retention=5.0)
                case 4:
                    store.abandon(claim)
                    store.resolve(claim.record.id, done=take_over, retention=60.0)
        clock.tick(100.0)
        purged = sum(store.purge(limit=32) for _ in range(40))
    assert purged == 500
    assert not store._records
    assert not store._expiries


def test_what_nobody_knows_the_outcome_of_is_never_swept() -> None:
    store = MemoryStore()
    with freeze_time("2026-11-24 12:00:00") as clock:
        store.claim(RecordKey(b"c" * 16), FINGERPRINT, **USUAL | {"take_over": False})
        store.abandon(claimed(store.claim(RecordKey(b"a" * 16), FINGERPRINT, **USUAL)))
        clock.tick(1e9)
        assert [store.purge(limit=10) for _ in range(3)] == [0, 0, 0]
    assert len(store._records) == 2


def claim_some(store: MemoryStore, to: Connection) -> None:
    outcomes = [store.claim(RecordKey(b"%16d" % n), FINGERPRINT, **USUAL) for n in range(10, 15)]
    to.send([outcome.claim.token for outcome in outcomes if isinstance(outcome, Claimed)])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")
def test_a_child_gives_no_token_that_its_parent_gives() -> None:
    store = MemoryStore()
    here, there = multiprocessing.Pipe()
    claim_some(store, there)
    tokens = here.recv()
    child = multiprocessing.get_context("fork").Process(target=claim_some, args=(store, there))
    store._records.clear()
    child.start()
    try:
        assert here.poll(30)
        tokens += here.recv()
    finally:
        child.join(30)
    claim_some(store, there)
    tokens += here.recv()
    assert len(set(tokens)) == len(tokens) == 15

"""What only the store in memory must see to: its own tidiness."""

import multiprocessing
from itertools import pairwise
from multiprocessing.connection import Connection

import pytest
from freezegun import freeze_time

from flask_idempotency.engine.records import Claimed, RecordKey
from flask_idempotency.stores import MemoryStore


def test_no_purge_looks_at_all_that_was_ever_given_back() -> None:
    store = MemoryStore()
    with freeze_time("2026-11-24 12:00:00") as clock:
        for number in range(1000):
            outcome = store.claim(RecordKey(b"%16d" % number), b"f" * 16, lease=1.0, retention=60.0)
            assert isinstance(outcome, Claimed)
            store.release(outcome.claim)
        clock.tick(61.0)
        left = [len(store._expiries)]
        for _ in range(60):
            store.purge(limit=10)
            left.append(len(store._expiries))
    assert max(before - after for before, after in pairwise(left)) <= 20
    assert left[-1] == 0


def test_whatever_becomes_of_records_they_and_their_expiries_are_gone_in_the_end() -> None:
    store = MemoryStore()
    with freeze_time("2026-11-24 12:00:00") as clock:
        for number in range(300):
            outcome = store.claim(RecordKey(b"%16d" % number), b"f" * 16, lease=1.0, retention=60.0)
            assert isinstance(outcome, Claimed)
            clock.tick(0.1)
            if number % 3 == 0:
                store.complete(outcome.claim, None, retention=60.0)
            elif number % 3 == 1:
                store.release(outcome.claim)
            else:
                store.renew([outcome.claim], lease=90.0)
        clock.tick(100.0)
        purged = sum(store.purge(limit=32) for _ in range(30))
    assert purged == 200
    assert not store._records
    assert not store._expiries


def claim_some(store: MemoryStore, to: Connection) -> None:
    outcomes = [store.claim(RecordKey(b"%16d" % n), b"f" * 16, lease=9.0, retention=9.0) for n in range(10, 15)]
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

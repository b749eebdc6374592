"""After an outage, answers that others have in hand come before anybody who would run their work again."""

import threading
from typing import Any

import pytest
from freezegun.api import FrozenDateTimeFactory as Clock

from flask_idempotency.engine.attempt import Attempt
from flask_idempotency.engine.engine import End
from flask_idempotency.engine.heartbeat import heartbeat
from flask_idempotency.engine.outages import Outage

from .desk import ANSWER, EVERYTHING, Desk, FailingStore, beat


def after_an_outage(clock: Clock, **policy: Any) -> tuple[Desk, FailingStore]:
    """A desk that saw its store away while a claim lapsed; it can be reached again."""
    store = FailingStore()
    desk = Desk(store, **policy)
    desk.vanish()
    clock.tick(31)
    store.lost = EVERYTHING
    assert desk.refused() == ("store-unavailable", 5)
    store.lost = ()
    return desk, store


def test_for_a_third_of_a_lease_after_an_outage_that_it_saw_a_process_takes_over_no_lapsed_claim(clock: Clock) -> None:
    desk, _ = after_an_outage(clock)
    assert desk.refused() == ("request-in-progress", 10)
    clock.tick(9.5)
    assert desk.refused() == ("request-in-progress", 1)
    assert desk.refused(b"g") == ("idempotency-key-reused", None)
    clock.tick(0.6)
    attempt = desk.run()
    assert attempt.lapsed
    desk.engine.release(attempt)


def test_who_saw_no_outage_takes_over_at_once(clock: Clock) -> None:
    desk = Desk()
    desk.vanish()
    clock.tick(31)
    desk.engine.release(desk.run())


def test_meanwhile_the_answer_in_somebody_elses_hand_is_written_and_replayed(clock: Clock) -> None:
    """Two processes on one store, of which the one has done the work and the other is asked again."""
    store = FailingStore()
    worker, other = Desk(store), Desk(store)
    attempt = worker.run()
    store.lost = EVERYTHING
    assert worker.engine.complete(attempt, ANSWER) is End.DEFERRED
    # What this process has in its hand is taken out of it, as though it were in another's.
    (debt,) = heartbeat.owed.values()
    heartbeat.forget(attempt.claim)
    clock.tick(40)
    assert other.refused()[0] == "store-unavailable"
    store.lost = ()
    assert other.refused()[0] == "request-in-progress"
    debt.finish()
    assert other.begin() == ANSWER


def test_fresh_requests_run_meanwhile(clock: Clock) -> None:
    desk, _ = after_an_outage(clock)
    attempt = desk.run(key="fresh")
    desk.engine.complete(attempt, ANSWER)
    assert desk.begin(key="fresh") == ANSWER


def test_an_outcome_that_the_policy_never_guesses_is_unknown_meanwhile_too(clock: Clock) -> None:
    desk, _ = after_an_outage(clock, on_lapse="refuse")
    assert desk.refused() == ("outcome-unknown", None)


def test_a_failure_during_the_calm_begins_it_anew(clock: Clock) -> None:
    desk, store = after_an_outage(clock)
    desk.refused()
    clock.tick(9)
    store.lost = ("claim",)
    assert desk.refused()[0] == "store-unavailable"
    store.lost = ()
    clock.tick(9)
    assert desk.refused() == ("request-in-progress", 10)
    clock.tick(9)
    assert desk.refused() == ("request-in-progress", 1)


def test_what_can_still_be_read_does_not_end_an_outage(clock: Clock) -> None:
    """On a full disk, completed records are replayed, and nobody can write the answer in its hand."""
    store = FailingStore()
    desk = Desk(store)
    desk.engine.complete(desk.run(key="done"), ANSWER)
    running = desk.run(key="running")
    desk.vanish()
    clock.tick(31)
    store.lost = ("renew",)
    beat()
    for _ in range(3):
        assert desk.begin(key="done") == ANSWER
        clock.tick(9)
    store.lost = ()
    assert desk.refused() == ("request-in-progress", 10)
    desk.engine.release(running)


def test_a_lapsed_claim_that_can_be_read_is_not_taken_over_at_the_moment_when_it_can_be_written(clock: Clock) -> None:
    desk, store = after_an_outage(clock)
    store.lost = ("complete", "renew")
    for _ in range(3):
        assert desk.refused() == ("request-in-progress", 1)
        clock.tick(11)
    store.lost = ()
    assert desk.refused() == ("request-in-progress", 10)
    clock.tick(10.1)
    desk.engine.release(desk.run())


def test_the_heartbeat_sees_the_outage_and_its_end_where_no_request_does(clock: Clock) -> None:
    store = FailingStore()
    desk = Desk(store)
    desk.vanish()
    running = desk.run(key="running")
    clock.tick(31)
    store.lost = EVERYTHING
    beat()
    clock.tick(60)
    store.lost = ()
    beat()
    clock.tick(5)
    assert desk.refused() == ("request-in-progress", 5)
    clock.tick(5)
    taken = desk.run()
    for attempt in (running, taken):
        desk.engine.release(attempt)


def test_an_end_that_cannot_be_written_is_an_outage(clock: Clock) -> None:
    store = FailingStore()
    desk = Desk(store)
    desk.vanish()
    attempt = desk.run(key="other")
    store.lost = ("complete",)
    desk.engine.complete(attempt, ANSWER)
    clock.tick(31)
    store.lost = ()
    beat()
    assert desk.refused() == ("request-in-progress", 10)


def test_a_repeat_that_may_wait_waits_for_the_calm_to_end() -> None:
    store = FailingStore()
    desk = Desk(store, lease=0.5, wait=60)
    desk.vanish()
    store.lost = ("claim",)
    desk.refused()
    threading.Event().wait(0.5)  # the lease
    store.lost = ()
    attempt = desk.begin(may_wait=True)
    assert isinstance(attempt, Attempt)
    assert attempt.lapsed
    desk.engine.release(attempt)


@pytest.mark.parametrize("engines", [1, 2])
def test_all_who_use_a_store_in_this_process_know_of_its_outage(engines: int, clock: Clock) -> None:
    desk, store = after_an_outage(clock)
    other = desk if engines == 1 else Desk(store)
    assert other.refused() == ("request-in-progress", 10)


def test_the_outage_of_one_store_is_none_of_another(clock: Clock) -> None:
    after_an_outage(clock)
    test_who_saw_no_outage_takes_over_at_once(clock)


def test_nothing_is_heeded_any_more_once_the_calm_is_over(clock: Clock) -> None:
    outage = Outage()
    assert not outage.seen
    outage.wrote(30.0)
    assert not outage.holds_back()
    outage.failed()
    assert outage.seen
    assert outage.holds_back()
    clock.tick(1000)
    assert outage.holds_back()
    outage.wrote(30.0)
    clock.tick(9)
    outage.wrote(30.0)  # the first one counts
    assert outage.holds_back()
    clock.tick(1.1)
    assert not outage.holds_back()
    assert not outage.seen

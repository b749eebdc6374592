"""Repeats that wait for the first, instead of hearing that it is in progress."""

import os
import threading
from typing import Any

import pytest
from freezegun.api import FrozenDateTimeFactory as Clock

from flask_idempotency.engine.attempt import Attempt
from flask_idempotency.engine.engine import Refusal
from flask_idempotency.engine.waiting import WaitingRoom, waiting_room

from .desk import ANSWER, Desk, FailingStore


class Waiter:
    """A repeat that may wait, on a thread of its own."""

    def __init__(self, desk: Desk, fingerprint: bytes = b"f", key: str = "k") -> None:
        self._heard: list[Any] = []
        self.thread = threading.Thread(
            target=lambda: self._heard.append(desk.begin(fingerprint, key, may_wait=True)), daemon=True
        )
        self.thread.start()

    def heard(self) -> Any:
        self.thread.join(20)
        (heard,) = self._heard
        return heard


def seated(waiters: list[Waiter]) -> None:
    """Return when so many are seated, at the least."""
    while waiting_room._seated < len(waiters):
        waiters[0].thread.join(0.001)


@pytest.fixture
def only_the_bell_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the store come too late for the test."""
    monkeypatch.setattr("flask_idempotency.engine.engine.FIRST_LOOK", 60.0)
    monkeypatch.setattr("flask_idempotency.engine.engine.LONGEST_LOOK", 60.0)


@pytest.mark.parametrize("end", ["complete", "tombstone", "release"])
@pytest.mark.usefixtures("only_the_bell_wakes")
def test_a_repeat_that_waits_is_woken_by_the_end_of_the_first(end: str) -> None:
    desk = Desk(wait=60)
    first = desk.run()
    waiter = Waiter(desk)
    seated([waiter])
    match end:
        case "complete":
            desk.engine.complete(first, ANSWER)
            assert waiter.heard() == ANSWER
        case "tombstone":
            desk.engine.complete(first, None)
            assert waiter.heard().refusal is Refusal.NOT_KEPT
        case "release":
            desk.engine.release(first)
            assert waiter.heard().number == 2
            desk.engine.release(waiter.heard())
    assert waiting_room.bells == {}
    assert waiting_room._seated == 0


def test_an_end_written_by_another_process_is_found_by_looking() -> None:
    desk = Desk(wait=60)
    first = desk.run()
    waiter = Waiter(desk)
    seated([waiter])
    desk.store.complete(first.claim, ANSWER, retention=60)  # nobody rings
    assert waiter.heard() == ANSWER
    desk.engine.complete(first, ANSWER)


@pytest.mark.parametrize(
    ("fingerprint", "lapsed", "refusal"),
    [(b"g", False, Refusal.REUSED), (b"f", True, Refusal.OUTCOME_UNKNOWN)],
)
def test_what_waiting_cannot_mend_is_refused_at_once(
    fingerprint: bytes, lapsed: bool, refusal: Refusal, clock: Clock
) -> None:
    desk = Desk(wait=60, on_lapse="refuse")
    first = desk.run()
    if lapsed:
        clock.tick(31)
    assert Waiter(desk, fingerprint).heard().refusal is refusal
    desk.engine.release(first)


def test_who_may_not_wait_does_not() -> None:
    desk = Desk(wait=60)
    first = desk.run()
    assert desk.refused()[0] == "request-in-progress"
    desk.engine.release(first)


def test_a_wait_that_is_over_is_told_as_in_progress() -> None:
    desk = Desk(wait=0.05)
    first = desk.run()
    assert Waiter(desk).heard().refusal is Refusal.IN_PROGRESS
    desk.engine.release(first)


@pytest.mark.parametrize("most", [0, 1, 3])
@pytest.mark.usefixtures("only_the_bell_wakes")
def test_no_more_wait_at_once_than_may_and_those_beyond_hear_409_at_once(most: int) -> None:
    desk = Desk(wait=60, max_waiters=most)
    first = desk.run()
    waiters = [Waiter(desk) for _ in range(most)]
    if waiters:
        seated(waiters)
    for _ in range(2):
        beyond = Waiter(desk).heard()
        assert (beyond.refusal, beyond.retry_after) == (Refusal.IN_PROGRESS, 1)
    desk.engine.complete(first, ANSWER)
    assert [waiter.heard() for waiter in waiters] == [ANSWER] * most


@pytest.mark.usefixtures("only_the_bell_wakes")
def test_the_seats_are_of_the_process_whatever_the_application_and_the_key() -> None:
    desk, other = Desk(wait=60, max_waiters=2), Desk(wait=60, max_waiters=2)
    running = [(desk, desk.run()), (desk, desk.run(key="another")), (other, other.run())]
    waiters = [Waiter(desk), Waiter(desk, key="another")]
    seated(waiters)
    assert Waiter(other).heard().refusal is Refusal.IN_PROGRESS
    for each, attempt in running:
        each.engine.complete(attempt, ANSWER)
    assert [waiter.heard() for waiter in waiters] == [ANSWER] * 2


@pytest.mark.parametrize("on_store_error", ["refuse", "run"])
def test_a_store_that_goes_away_meanwhile_lets_nothing_run_of_which_it_is_known_that_it_runs(
    on_store_error: str,
) -> None:
    store = FailingStore()
    desk = Desk(store, wait=60, on_store_error=on_store_error)
    first = desk.run()
    waiter = Waiter(desk)
    seated([waiter])
    store.lost = ("claim",)
    assert waiter.heard().refusal is Refusal.IN_PROGRESS
    store.lost = ()
    desk.engine.release(first)


def test_a_waiter_is_woken_by_the_bell_of_its_own_record_only() -> None:
    room = WaitingRoom()
    with room.seat(b"mine", seats=4) as mine:
        assert mine is not None
        room.ring(b"another's")
        assert not mine.is_set()
        room.ring(b"mine")
        assert mine.is_set()
    room.ring(b"mine")  # nobody waits: fine


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_those_who_wait_in_the_parent_take_no_seat_in_a_child() -> None:
    room = WaitingRoom()
    with room.seat(b"r", seats=1), room._lock:
        child = os.fork()
        if not child:
            with room.seat(b"r", seats=1) as bell:
                os._exit(0 if bell is not None else 1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_waiter_whose_first_vanished_takes_over() -> None:
    desk = Desk(wait=60, lease=0.3)
    desk.vanish()
    attempt = Waiter(desk).heard()
    assert isinstance(attempt, Attempt)
    assert attempt.lapsed
    desk.engine.release(attempt)

"""What the end of an attempt leaves behind, and what of it where the store is away."""

from collections.abc import Callable
from typing import Any

import pytest
from freezegun.api import FrozenDateTimeFactory as Clock

from flask_idempotency.engine.attempt import Attempt, State
from flask_idempotency.engine.engine import End, Engine
from flask_idempotency.engine.events import Outcome
from flask_idempotency.engine.heartbeat import heartbeat
from flask_idempotency.engine.records import StoredResponse

from .desk import ANSWER, EVERYTHING, Desk, FailingStore, beat

Finish = Callable[[Engine, Attempt], End]

ENDS: dict[str, Finish] = {
    "complete": lambda engine, attempt: engine.complete(attempt, ANSWER),
    "answering": Engine.answering,
    "release": Engine.release,
    "abandon": Engine.abandon,
}


@pytest.mark.parametrize("end", ENDS)
def test_whatever_a_holder_ends_with_is_fenced_once_its_claim_was_taken_over(end: str, clock: Clock) -> None:
    desk = Desk()
    first = desk.run()
    clock.tick(31)
    second = desk.run()
    desk.heard()
    assert ENDS[end](desk.engine, first) is End.FENCED
    assert first.state is State.DONE
    assert desk.engine.complete(second, ANSWER) is End.WRITTEN
    assert desk.begin() == ANSWER
    assert desk.heard() == [Outcome.FENCED, Outcome.COMPLETED, Outcome.REPLAYED]


def test_a_holder_whose_lease_ended_may_complete_as_long_as_nobody_took_over(clock: Clock) -> None:
    desk = Desk()
    attempt = desk.run()
    clock.tick(31)
    assert desk.engine.complete(attempt, ANSWER) is End.WRITTEN
    assert desk.begin() == ANSWER


def test_what_was_torn_off_lapses_and_is_renewed_no_more(clock: Clock) -> None:
    desk = Desk()
    attempt = desk.run()
    clock.tick(20)
    desk.engine.let_lapse(attempt)
    assert attempt.state is State.DONE
    beat()
    clock.tick(11)
    again = desk.run()
    assert again.lapsed
    desk.engine.release(again)


@pytest.mark.parametrize("policy", [{"on_error": "refuse"}, {"on_error": "refuse", "on_lapse": "refuse"}])
@pytest.mark.parametrize("done", [True, False])
def test_where_the_policy_refuses_doubt_a_failures_outcome_is_unknown_until_a_person_knows_it(
    policy: Any, done: bool, clock: Clock
) -> None:
    desk = Desk(**policy)
    attempt = desk.run()
    assert desk.engine.fail(attempt) is End.WRITTEN
    assert desk.heard() == [Outcome.CLAIMED, Outcome.ABANDONED]
    for _ in range(2):
        assert desk.refused() == ("outcome-unknown", None)
        assert desk.refused(b"g") == ("idempotency-key-reused", None)
        clock.tick(365 * 24 * 60 * 60)
        desk.store.purge(limit=1000)
    assert desk.store.resolve(attempt.claim.record.id, done=done, retention=60)
    if done:
        assert desk.refused() == ("response-not-kept", None)
    else:
        again = desk.run()
        assert (again.number, again.lapsed) == (2, False)
        desk.engine.release(again)


def test_a_failure_gives_the_key_back_unless_the_policy_refuses_doubt() -> None:
    desk = Desk()
    assert desk.engine.fail(desk.run()) is End.WRITTEN
    assert desk.heard() == [Outcome.CLAIMED, Outcome.RELEASED]
    desk.engine.release(desk.run())


def test_a_lapse_that_the_policy_refuses_outlasts_every_retention(clock: Clock) -> None:
    desk = Desk(on_lapse="refuse", retention=60)
    desk.vanish()
    clock.tick(365 * 24 * 60 * 60)
    desk.store.purge(limit=1000)
    assert desk.refused() == ("outcome-unknown", None)


def test_while_an_answer_streams_its_repeats_hear_that_it_is_in_progress(clock: Clock) -> None:
    desk = Desk()
    attempt = desk.run()
    assert desk.engine.answering(attempt) is End.WRITTEN
    assert attempt.state is State.ANSWERING
    for _ in range(10):
        clock.tick(10)
        beat()
        assert desk.refused()[0] == "request-in-progress"
    assert desk.engine.complete(attempt, ANSWER) is End.WRITTEN
    assert desk.begin() == ANSWER


def test_an_answer_that_streamed_and_was_never_ended_is_not_run_again(clock: Clock) -> None:
    desk = Desk()
    attempt = desk.run()
    desk.engine.answering(attempt)
    heartbeat.forget(attempt.claim)  # its process died
    clock.tick(31)
    assert desk.refused() == ("response-not-kept", None)
    # Nor does it harm where it was only very slow.
    assert desk.engine.complete(attempt, ANSWER) is End.WRITTEN
    assert desk.begin() == ANSWER


def test_a_streamed_answer_that_is_not_to_be_kept_gives_its_key_back() -> None:
    desk = Desk()
    attempt = desk.run()
    desk.engine.answering(attempt)
    assert desk.engine.release(attempt) is End.WRITTEN
    desk.engine.release(desk.run())


@pytest.mark.parametrize(
    ("end", "told", "then"),
    [
        ("complete", Outcome.COMPLETED_LATE, ANSWER),
        ("release", Outcome.RELEASED, None),
        ("abandon", Outcome.ABANDONED, "outcome-unknown"),
    ],
)
@pytest.mark.parametrize("away", [EVERYTHING, ("complete", "release", "abandon", "renew")], ids=["away", "read-only"])
@pytest.mark.parametrize("on_store_error", ["refuse", "run"])
def test_an_end_that_cannot_be_written_is_kept_in_hand_and_its_repeats_hear_409(
    end: str, told: Outcome, then: str | StoredResponse | None, away: Any, on_store_error: str, clock: Clock
) -> None:
    store = FailingStore()
    desk = Desk(store, on_store_error=on_store_error)
    attempt = desk.run()
    store.lost = away
    assert ENDS[end](desk.engine, attempt) is End.DEFERRED
    assert desk.heard() == [Outcome.CLAIMED, Outcome.DEFERRED]
    for _ in range(4):  # for longer than the lease
        beat()
        assert desk.refused() == ("request-in-progress", 1 + int(attempt.age) // 10)
        assert desk.refused(b"g") == ("idempotency-key-reused", None)
        clock.tick(9)
    desk.heard()
    store.lost = ()
    beat()
    assert desk.heard() == [told]
    if isinstance(then, StoredResponse):
        assert desk.begin() == then
    elif then is not None:
        clock.tick(11)  # the calm after the outage
        assert desk.refused()[0] == then
    else:
        desk.engine.release(desk.run())


def test_a_repeat_has_what_is_owed_under_its_key_written_before_it_claims() -> None:
    store = FailingStore()
    desk = Desk(store)
    attempt = desk.run()
    store.lost = ("complete",)
    desk.engine.complete(attempt, ANSWER)
    store.lost = ()
    assert desk.begin() == ANSWER
    assert desk.heard() == [Outcome.CLAIMED, Outcome.DEFERRED, Outcome.COMPLETED_LATE, Outcome.REPLAYED]


def test_what_is_owed_under_one_key_is_no_trouble_of_another() -> None:
    store = FailingStore()
    desk = Desk(store)
    attempt = desk.run()
    store.lost = ("complete",)
    desk.engine.complete(attempt, ANSWER)
    desk.engine.release(desk.run(key="other"))
    store.lost = ()
    beat()


def test_an_end_in_hand_that_comes_too_late_is_fenced_and_overwrites_nothing(clock: Clock) -> None:
    store = FailingStore()
    desk = Desk(store)
    first = desk.run()
    store.lost = ("complete",)
    assert desk.engine.complete(first, StoredResponse("200 OK", (), b"late")) is End.DEFERRED
    clock.tick(31)
    store.lost = ()
    elsewhere = store.claim(first.claim.record, b"f" * 16, lease=30, retention=60, take_over=True, durable=False)
    assert store.complete(elsewhere.claim, ANSWER, retention=60)  # type: ignore[union-attr]
    desk.heard()
    beat()
    assert desk.heard() == [Outcome.FENCED]
    assert desk.begin() == ANSWER


@pytest.mark.parametrize("end", ["complete", "release"])
def test_an_end_that_is_torn_off_is_kept_in_hand_for_as_long_as_the_process_lives(end: str) -> None:
    store = FailingStore(SystemExit())
    desk = Desk(store)
    attempt = desk.run()
    store.lost = (end,)
    with pytest.raises(SystemExit):
        ENDS[end](desk.engine, attempt)
    store.lost = ()
    beat()
    if end == "complete":
        assert desk.begin() == ANSWER
    else:
        desk.engine.release(desk.run())


def test_a_stores_defect_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    store = FailingStore(ZeroDivisionError("a defect"))
    desk = Desk(store)
    attempt = desk.run()
    store.lost = ("complete",)
    assert desk.engine.complete(attempt, ANSWER) is End.DEFERRED
    for _ in range(5):
        beat()
    assert caplog.text.count("ZeroDivisionError: a defect") == 2  # said of the request, and of the heartbeat
    store.lost = ()
    beat()
    assert desk.begin() == ANSWER


def test_a_stream_that_could_not_be_announced_is_announced_later_and_ends_as_any_other(clock: Clock) -> None:
    store = FailingStore()
    desk = Desk(store)
    attempt = desk.run()
    store.lost = ("answering",)
    assert desk.engine.answering(attempt) is End.DEFERRED
    assert attempt.state is State.ANSWERING
    store.lost = ()
    beat()
    assert not heartbeat.owed
    for _ in range(4):  # it goes on to be renewed
        clock.tick(10)
        beat()
        assert desk.refused()[0] == "request-in-progress"
    assert desk.engine.complete(attempt, ANSWER) is End.WRITTEN
    assert desk.begin() == ANSWER


def test_the_end_of_a_stream_takes_the_place_of_its_beginning_that_is_still_owed() -> None:
    store = FailingStore()
    desk = Desk(store)
    attempt = desk.run()
    store.lost = ("answering", "complete")
    desk.engine.answering(attempt)
    assert desk.engine.complete(attempt, ANSWER) is End.DEFERRED
    store.lost = ("answering",)
    beat()
    assert desk.begin() == ANSWER

"""The decisions of the engine, and what it tells about them."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from freezegun import freeze_time

from flask_idempotency.engine.attempt import Attempt, State
from flask_idempotency.engine.engine import Engine, Refusal, Refuse, Replay, Run
from flask_idempotency.engine.events import Event, Outcome
from flask_idempotency.engine.heartbeat import heartbeat
from flask_idempotency.engine.policy import Policy
from flask_idempotency.engine.records import StoredResponse
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import MemoryStore

ANSWER = StoredResponse("201 Created", (("X", "1"),), b"body")
NOBODY = b"p" * 16


class Desk:
    """An engine, and what its observer has heard."""

    def __init__(self, store: MemoryStore | None = None, **policy: Any) -> None:
        self.store = MemoryStore() if store is None else store
        self.events: list[Event] = []
        self.engine = Engine(self.store, observers=[self.events.append])
        self.policy = Policy(**policy)
        self.attempts: list[Attempt] = []

    def begin(self, fingerprint: bytes = b"f", key: str = "k", principal: bytes = NOBODY, **more: Any) -> Any:
        decision = self.engine.begin(
            key=key, principal=principal, fingerprint=fingerprint * 16, policy=self.policy, **more
        )
        if isinstance(decision, Run) and decision.attempt:
            self.attempts.append(decision.attempt)
            return decision.attempt
        return decision

    def heard(self) -> list[Outcome]:
        outcomes = [event.outcome for event in self.events]
        self.events.clear()
        return outcomes

    def lapse(self, attempt: Attempt) -> None:
        record = self.store._records[attempt.claim.record_id]
        record.lease_ends = 0.0


@pytest.fixture(autouse=True)
def nothing_is_left_beating() -> Iterator[None]:
    held = len(heartbeat)
    yield
    assert len(heartbeat) == held


def test_a_first_attempt_runs_and_its_repeat_hears_the_answer() -> None:
    desk = Desk()
    attempt = desk.begin()
    assert (attempt.key, attempt.number, attempt.lapsed, attempt.state) == ("k", 1, False, State.RUNNING)
    assert desk.engine.complete(attempt, ANSWER)
    assert attempt.state is State.DONE
    assert desk.begin() == Replay(ANSWER)
    assert desk.heard() == [Outcome.CLAIMED, Outcome.COMPLETED, Outcome.REPLAYED]


@pytest.mark.parametrize("end", ["complete", "release", "abandon", None])
def test_another_fingerprint_is_refused_as_long_as_the_key_is_not_free(end: str | None) -> None:
    desk = Desk()
    attempt = desk.begin(b"f")
    match end:
        case "complete":
            desk.engine.complete(attempt, ANSWER)
        case "release":
            desk.engine.release(attempt)
        case "abandon":
            desk.engine.abandon(attempt)
            desk.lapse(attempt)
    other = desk.begin(b"g")
    if end == "release":
        assert other.number == 1
        desk.engine.release(other)
    else:
        assert other == Refuse(Refusal.REUSED)
        desk.engine.release(attempt)


@pytest.mark.parametrize("same", [{"key": "other"}, {"principal": b"q" * 16}])
def test_another_key_and_another_principal_are_other_operations(same: Any) -> None:
    desk = Desk()
    one, two = desk.begin(), desk.begin(**same)
    assert one.claim.record_id != two.claim.record_id
    for attempt in (one, two):
        desk.engine.complete(attempt, None)


def test_a_tombstone_is_told_and_never_runs_again() -> None:
    desk = Desk()
    desk.engine.complete(desk.begin(), None)
    assert desk.begin() == Refuse(Refusal.NOT_KEPT)
    assert desk.heard() == [Outcome.CLAIMED, Outcome.RESPONSE_DROPPED, Outcome.NOT_KEPT]


def test_a_stream_stands_as_a_tombstone_until_it_has_ended_whole() -> None:
    desk = Desk()
    attempt = desk.begin()
    assert desk.engine.begin_streaming(attempt)
    assert attempt.state is State.STREAMING
    assert desk.begin() == Refuse(Refusal.NOT_KEPT)
    desk.engine.complete(attempt, ANSWER)
    assert desk.begin() == Replay(ANSWER)


def test_a_lapsed_claim_is_taken_over_and_whatever_its_holder_ends_with_is_fenced() -> None:
    for end in ("complete", "begin_streaming", "release"):
        desk = Desk()
        first = desk.begin()
        desk.lapse(first)
        second = desk.begin()
        assert (second.number, second.lapsed) == (2, True)
        arguments = (ANSWER,) if end == "complete" else ()
        assert getattr(desk.engine, end)(first, *arguments) is False
        assert first.state is State.DONE
        assert desk.engine.complete(second, ANSWER)
        assert desk.begin() == Replay(ANSWER)
        assert desk.heard() == [
            Outcome.CLAIMED, Outcome.TAKEN_OVER, Outcome.FENCED, Outcome.COMPLETED, Outcome.REPLAYED,
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "refused"),
    [({"on_lapse": "refuse"}, True), ({"on_lapse": "refuse", "atomic": True}, False), ({"on_lapse": "rerun"}, False)],
)
def test_an_unknown_outcome_is_refused_by_policy_but_never_that_of_a_transaction(policy: Any, refused: bool) -> None:
    desk = Desk(**policy)
    desk.lapse(desk.begin())
    second = desk.begin()
    assert (second == Refuse(Refusal.OUTCOME_UNKNOWN)) == refused
    for attempt in desk.attempts:
        desk.engine.release(attempt)


def test_an_abandoned_claim_is_renewed_no_more() -> None:
    desk = Desk()
    attempt = desk.begin()
    desk.engine.abandon(attempt)
    assert attempt.state is State.DONE
    assert desk.begin().refusal is Refusal.IN_PROGRESS
    assert desk.heard() == [Outcome.CLAIMED, Outcome.ABANDONED, Outcome.IN_PROGRESS]


@pytest.mark.parametrize(("silent", "after"), [(0, 5), (4, 5), (10, 10), (14, 14), (20, 10), (29, 1), (29.9, 1)])
def test_a_repeat_is_told_to_come_back_soon_and_never_after_the_end_of_the_lease(silent: float, after: int) -> None:
    """`silent`: for how long the holder has given no sign of life."""
    desk = Desk(lease=30)
    with freeze_time("2026-11-24") as clock:
        attempt = desk.begin()
        clock.tick(silent)
        assert desk.begin() == Refuse(Refusal.IN_PROGRESS, after)
    desk.engine.release(attempt)


class LostStore(MemoryStore):
    """Cannot be reached for the calls in `lost`."""

    lost: tuple[str, ...] = ()

    def __getattribute__(self, name: str) -> Any:
        if name in super().__getattribute__("lost"):
            raise StoreUnavailable("down")
        return super().__getattribute__(name)


def test_without_the_store_a_request_is_refused_or_runs_unprotected_by_policy() -> None:
    for policy, outcome in (("refuse", Outcome.STORE_UNAVAILABLE), ("run", Outcome.UNPROTECTED)):
        store = LostStore()
        desk = Desk(store, on_store_error=policy)
        store.lost = ("claim",)
        decision = desk.begin()
        assert decision == (Run(None) if policy == "run" else Refuse(Refusal.STORE_UNAVAILABLE, 5))
        assert desk.heard() == [outcome]


def test_a_sweep_that_fails_is_nobodys_trouble() -> None:
    store = LostStore()
    desk = Desk(store)
    store.lost = ("purge",)
    for number in range(40):
        assert desk.engine.release(desk.begin(key=str(number)))


def test_records_are_swept_faster_than_they_come_to_be() -> None:
    desk = Desk(retention=60)
    with freeze_time("2026-11-24") as clock:
        for number in range(100):
            desk.engine.complete(desk.begin(key=f"old {number}"), ANSWER)
        clock.tick(61)
        for number in range(100):
            desk.engine.complete(desk.begin(key=f"new {number}"), ANSWER)
        assert len(desk.store._records) == 100


def test_each_observer_hears_every_event_whatever_another_one_raises(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def failing(event: Event) -> None:
        raise ValueError("no")

    engine = Engine(MemoryStore(), observers=[failing, heard.append])
    engine.tell(Outcome.MISSING)
    assert heard == [Event(Outcome.MISSING)]
    assert "An observer failed on idempotency-key-missing." in caplog.text


def test_an_event_names_the_operation_and_the_attempt_and_shows_no_key() -> None:
    desk = Desk()
    attempt = desk.begin(key="a-secret-key")
    desk.engine.complete(attempt, ANSWER)
    claimed, completed = desk.events
    assert (claimed.record_id, claimed.number) == (attempt.claim.record_id, 1)
    assert completed.record_id == attempt.claim.record_id
    assert "a-secret-key" not in repr(desk.events) + repr(attempt)


def test_every_refusal_is_an_outcome() -> None:
    assert {refusal.value for refusal in Refusal} <= {outcome.value for outcome in Outcome}


def waiting(desk: Desk, fingerprint: bytes = b"f") -> tuple[threading.Thread, list[Any]]:
    """A repeat that may wait, on a thread of its own."""
    heard: list[Any] = []
    thread = threading.Thread(target=lambda: heard.append(desk.begin(fingerprint, may_wait=True)))
    thread.start()
    return thread, heard


@pytest.mark.parametrize("end", ["complete", "tombstone", "release"])
def test_a_repeat_that_waits_is_woken_by_the_end_of_the_first(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Looks at the store come too late for this test: only the bell can wake it.
    monkeypatch.setattr("flask_idempotency.engine.engine.FIRST_LOOK", 60.0)
    monkeypatch.setattr("flask_idempotency.engine.engine.LONGEST_LOOK", 60.0)
    desk = Desk(wait=60)
    first = desk.begin()
    thread, heard = waiting(desk)
    while not desk.engine._waiting._bells:
        thread.join(0.001)
    match end:
        case "complete":
            desk.engine.complete(first, ANSWER)
        case "tombstone":
            desk.engine.complete(first, None)
        case "release":
            desk.engine.release(first)
    thread.join(20)
    assert not thread.is_alive()
    if end == "release":
        assert heard[0].number == 1
        desk.engine.release(heard[0])
    else:
        assert heard == [Replay(ANSWER) if end == "complete" else Refuse(Refusal.NOT_KEPT)]
    assert desk.engine._waiting._bells == {}
    assert desk.engine._waiting._seated == 0


def test_an_end_written_by_another_process_is_found_by_looking() -> None:
    store = MemoryStore()
    here, there = Desk(store, wait=60), Desk(store)
    first = there.begin()
    thread, heard = waiting(here)
    while not here.engine._waiting._bells:
        thread.join(0.001)
    there.engine.complete(first, ANSWER)
    thread.join(20)
    assert heard == [Replay(ANSWER)]


@pytest.mark.parametrize(
    ("fingerprint", "lapsed", "refusal"),
    [(b"g", False, Refusal.REUSED), (b"f", True, Refusal.OUTCOME_UNKNOWN)],
)
def test_what_waiting_cannot_mend_is_refused_at_once(fingerprint: bytes, lapsed: bool, refusal: Refusal) -> None:
    desk = Desk(wait=60, on_lapse="refuse")
    first = desk.begin()
    if lapsed:
        desk.lapse(first)
    thread, heard = waiting(desk, fingerprint)
    thread.join(20)
    assert [decision.refusal for decision in heard] == [refusal]
    desk.engine.release(first)


def test_who_may_not_wait_does_not() -> None:
    desk = Desk(wait=60)
    first = desk.begin()
    assert desk.begin().refusal is Refusal.IN_PROGRESS
    desk.engine.release(first)


def test_at_most_half_of_those_ever_seen_wait_and_one_in_any_case() -> None:
    desk = Desk(wait=60)
    other, first = desk.begin(key="other"), desk.begin()
    # Two handlers and two who wait are four; with a third one they would be five, of whom more than half wait.
    seated = [waiting(desk) for _ in range(2)]
    while desk.engine._waiting._seated < 2:
        seated[0][0].join(0.001)
    third, heard = waiting(desk)
    third.join(20)
    assert heard[0].refusal is Refusal.IN_PROGRESS
    desk.engine.complete(first, ANSWER)
    for thread, replayed in seated:
        thread.join(20)
        assert replayed == [Replay(ANSWER)]
    desk.engine.release(other)


@pytest.mark.parametrize("torn_off", [RuntimeError("can't start new thread"), SystemExit()])
def test_an_attempt_that_cannot_begin_gives_its_claim_back(
    monkeypatch: pytest.MonkeyPatch, torn_off: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise torn_off

    store = MemoryStore()
    engine = Engine(store)
    ask = {"key": "k", "principal": b"p" * 16, "fingerprint": b"f" * 16, "policy": Policy()}
    with monkeypatch.context() as patch:
        patch.setattr(heartbeat, "watch", fail)
        with pytest.raises(type(torn_off)):
            engine.begin(**ask)  # type: ignore[arg-type]
    begun = engine.begin(**ask)  # type: ignore[arg-type]
    assert isinstance(begun, Run)
    assert begun.attempt is not None
    engine.release(begun.attempt)


def test_a_sweep_that_fails_harms_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> int:
        raise ZeroDivisionError

    store = MemoryStore()
    monkeypatch.setattr(store, "purge", fail)
    engine = Engine(store)
    for number in range(40):
        begun = engine.begin(key=str(number), principal=b"p" * 16, fingerprint=b"f" * 16, policy=Policy())
        assert isinstance(begun, Run)
        assert begun.attempt is not None
        engine.release(begun.attempt)


def test_an_observer_is_told_what_it_hears_at_that_moment() -> None:
    class Picky:
        heard: list[Event] = []
        ears: set[Outcome] = set()

        def hears(self, outcome: Outcome) -> bool:
            return outcome in self.ears

        def __call__(self, event: Event) -> None:
            self.heard.append(event)

    picky = Picky()
    engine = Engine(MemoryStore(), observers=[picky])
    engine.tell(Outcome.MISSING)
    picky.ears.add(Outcome.MISSING)
    engine.tell(Outcome.MALFORMED)
    engine.tell(Outcome.MISSING)
    assert picky.heard == [Event(Outcome.MISSING)]

"""The decisions of the engine, and what it tells about them."""

from typing import Any

import pytest
from freezegun.api import FrozenDateTimeFactory as Clock

from flask_idempotency.engine.attempt import Attempt, State
from flask_idempotency.engine.digests import digest
from flask_idempotency.engine.engine import End, Engine, Refusal, Refuse, Unprotected
from flask_idempotency.engine.events import Event, Outcome
from flask_idempotency.engine.heartbeat import heartbeat
from flask_idempotency.engine.records import RecordKey
from flask_idempotency.engine.store import RecordUnreadable, StoreUnavailable
from flask_idempotency.stores import MemoryStore

from .desk import ANSWER, NOBODY, Desk, FailingStore


def test_a_first_attempt_runs_and_its_repeat_hears_the_answer() -> None:
    desk = Desk()
    attempt = desk.run()
    assert (attempt.key, attempt.number, attempt.lapsed, attempt.state) == ("k", 1, False, State.RUNNING)
    assert desk.engine.complete(attempt, ANSWER) is End.WRITTEN
    assert attempt.state is State.DONE
    assert desk.begin() == ANSWER
    assert desk.heard() == [Outcome.CLAIMED, Outcome.COMPLETED, Outcome.REPLAYED]


def test_a_replay_does_not_prolong_what_it_replays(clock: Clock) -> None:
    desk = Desk(retention=60)
    desk.engine.complete(desk.run(), ANSWER)
    for _ in range(2):
        clock.tick(29)
        assert desk.begin() == ANSWER
    clock.tick(2)
    attempt = desk.run(b"g")
    assert (attempt.number, attempt.lapsed) == (1, False)
    desk.engine.release(attempt)


@pytest.mark.parametrize("state", ["completed", "in flight", "lapsed"])
def test_another_fingerprint_is_refused_as_long_as_the_key_is_not_free(state: str, clock: Clock) -> None:
    desk = Desk()
    attempt = desk.run(b"f")
    match state:
        case "completed":
            desk.engine.complete(attempt, ANSWER)
        case "lapsed":
            desk.engine.let_lapse(attempt)
            clock.tick(31)
    assert desk.refused(b"g") == ("idempotency-key-reused", None)
    desk.engine.release(attempt)


def test_who_was_told_to_mend_a_request_may_use_its_key_for_the_mended_one() -> None:
    desk = Desk()
    assert desk.engine.release(desk.run(b"f")) is End.WRITTEN
    mended = desk.run(b"g")
    assert not mended.lapsed
    desk.engine.complete(mended, ANSWER)
    assert desk.begin(b"g") == ANSWER


def test_a_retry_after_a_failure_sees_that_it_is_one() -> None:
    desk = Desk()
    desk.engine.release(desk.run())
    again = desk.run()
    assert (again.number, again.lapsed) == (2, False)
    desk.engine.release(again)


@pytest.mark.parametrize("other", [{"key": "other"}, {"principal": b"q" * 16}])
def test_another_key_and_another_principal_are_other_operations(other: Any) -> None:
    desk = Desk()
    desk.engine.complete(desk.run(), ANSWER)
    attempt = desk.run(**other)
    assert attempt.number == 1
    desk.engine.release(attempt)


def test_two_applications_on_one_store_share_no_record() -> None:
    shop = Desk(namespace="shop")
    till = Desk(shop.store, namespace="till")
    shop.engine.complete(shop.run(), ANSWER)
    attempt = till.run()
    assert attempt.claim.record.id != RecordKey.of(NOBODY, "k", namespace=digest(b"shop")).id
    assert attempt.claim.record.id == RecordKey.of(NOBODY, "k", namespace=digest(b"till")).id
    till.engine.release(attempt)
    assert shop.begin() == ANSWER


def test_an_application_may_have_any_name() -> None:
    desk = Desk(namespace="caf\xe9 \udcff")
    desk.engine.complete(desk.run(), ANSWER)
    assert desk.begin() == ANSWER


def test_a_tombstone_is_told_and_never_runs_again() -> None:
    desk = Desk()
    desk.engine.complete(desk.run(), None)
    assert desk.refused() == ("response-not-kept", None)
    assert desk.heard() == [Outcome.CLAIMED, Outcome.RESPONSE_DROPPED, Outcome.NOT_KEPT]


def test_a_lapsed_claim_is_taken_over_under_a_new_token(clock: Clock) -> None:
    desk = Desk()
    first = desk.run()
    desk.engine.let_lapse(first)
    assert desk.refused()[0] == "request-in-progress"
    clock.tick(31)
    second = desk.run()
    assert (second.number, second.lapsed) == (2, True)
    assert second.claim.token != first.claim.token
    desk.engine.complete(second, ANSWER)
    assert desk.heard() == [
        Outcome.CLAIMED, Outcome.LEFT_TO_LAPSE, Outcome.IN_PROGRESS, Outcome.TAKEN_OVER, Outcome.COMPLETED,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "refused"),
    [({"on_lapse": "refuse"}, True), ({"on_lapse": "refuse", "atomic": True}, False), ({"on_lapse": "rerun"}, False)],
)
def test_an_unknown_outcome_is_refused_by_policy_but_never_that_of_a_transaction(
    policy: Any, refused: bool, clock: Clock
) -> None:
    desk = Desk(**policy)
    desk.vanish()
    clock.tick(31)
    second = desk.begin()
    if refused:
        assert isinstance(second, Refuse)
        assert (second.refusal, second.retry_after) == (Refusal.OUTCOME_UNKNOWN, None)
    else:
        assert isinstance(second, Attempt)
        desk.engine.release(second)


@pytest.mark.parametrize(
    ("policy", "take_over", "durable"),
    [
        ({}, True, False),
        ({"durable_claims": True}, True, True),
        ({"on_lapse": "refuse"}, False, True),
        ({"on_lapse": "refuse", "atomic": True}, True, False),
    ],
)
def test_a_claim_must_survive_power_loss_where_the_policy_relies_on_it(
    policy: Any, take_over: bool, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(**policy)
    asked: dict[str, Any] = {}
    claim = desk.store.claim

    def note(*arguments: Any, **options: Any) -> Any:
        asked.update(options)
        return claim(*arguments, **options)

    monkeypatch.setattr(desk.store, "claim", note)
    desk.engine.release(desk.run())
    assert (asked["take_over"], asked["durable"]) == (take_over, durable)


def test_without_the_store_a_request_is_refused_or_runs_unprotected_by_policy() -> None:
    for policy, outcome in (("refuse", Outcome.STORE_UNAVAILABLE), ("run", Outcome.UNPROTECTED)):
        store = FailingStore()
        desk = Desk(store, on_store_error=policy)
        store.lost = ("claim",)
        if policy == "run":
            assert desk.begin() is Unprotected.RUN
        else:
            assert desk.refused() == ("store-unavailable", 5)
        assert desk.heard() == [outcome]


def test_a_record_that_cannot_be_read_is_never_run_unprotected() -> None:
    store = FailingStore(RecordUnreadable("encrypted under an unknown key"))
    desk = Desk(store, on_store_error="run")
    store.lost = ("claim",)
    assert desk.refused() == ("store-unavailable", 5)


@pytest.mark.parametrize("error", [StoreUnavailable("down"), ZeroDivisionError()], ids=["down", "a defect"])
def test_a_sweep_that_fails_is_nobodys_trouble(error: Exception) -> None:
    store = FailingStore(error)
    desk = Desk(store)
    store.lost = ("purge",)
    for number in range(40):
        assert desk.engine.release(desk.run(key=str(number))) is End.WRITTEN
    assert store.asked.count("purge") == 2


def test_records_are_swept_faster_than_they_come_to_be(clock: Clock) -> None:
    desk = Desk(retention=60)
    for number in range(100):
        desk.engine.complete(desk.run(key=f"old {number}"), ANSWER)
    clock.tick(61)
    for number in range(100):
        desk.engine.complete(desk.run(key=f"new {number}"), ANSWER)
    assert desk.store.purge(limit=1000) == 0


def test_each_observer_hears_every_event_whatever_another_one_raises(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def failing(event: Event) -> None:
        raise ValueError("no")

    engine = Engine(MemoryStore(), observers=[failing, heard.append])
    engine.tell(Outcome.MISSING)
    assert heard == [Event(Outcome.MISSING)]
    assert "An observer failed on idempotency-key-missing." in caplog.text


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


def test_an_event_names_the_operation_and_the_attempt_and_shows_no_key() -> None:
    desk = Desk()
    attempt = desk.run(key="a-secret-key")
    desk.engine.complete(attempt, ANSWER)
    claimed, completed = desk.events
    assert (claimed.record_id, claimed.number) == (attempt.claim.record.id, 1)
    assert completed.record_id == attempt.claim.record.id
    assert "a-secret-key" not in repr(desk.events) + repr(attempt) + repr(attempt.claim)


def test_every_refusal_is_an_outcome_and_names_its_record() -> None:
    assert {refusal.value for refusal in Refusal} <= {outcome.value for outcome in Outcome}
    desk = Desk()
    attempt = desk.run()
    refuse = desk.begin()
    assert isinstance(refuse, Refuse)
    assert refuse.record_id == attempt.claim.record.id
    desk.engine.release(attempt)


@pytest.mark.parametrize("torn_off", [RuntimeError("can't start new thread"), SystemExit()])
def test_an_attempt_that_cannot_begin_gives_its_claim_back(
    monkeypatch: pytest.MonkeyPatch, torn_off: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise torn_off

    desk = Desk()
    with monkeypatch.context() as patch:
        patch.setattr(heartbeat, "watch", fail)
        with pytest.raises(type(torn_off)):
            desk.begin()
    desk.engine.release(desk.run())

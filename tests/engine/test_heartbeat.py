"""The thread that keeps claims from lapsing and writes what is owed: whatever else goes wrong, it goes on."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from flask_idempotency.engine.attempt import Attempt, State
from flask_idempotency.engine.heartbeat import Heartbeat
from flask_idempotency.engine.policy import Policy
from flask_idempotency.engine.records import Claim, Claimed, Completed, RecordKey, StoredResponse
from flask_idempotency.engine.store import Store, StoreUnavailable
from flask_idempotency.stores import MemoryStore

TIMEOUT = 20.0
FINGERPRINT = b"f" * 16

made: list[Heartbeat] = []


def new_heartbeat() -> Heartbeat:
    """One that ends its work with the test; its thread sleeps on."""
    made.append(Heartbeat())
    return made[-1]


@pytest.fixture(autouse=True)
def none_beats_on() -> Iterator[None]:
    yield
    while made:
        heartbeat = made.pop()
        heartbeat._beats = {}
        heartbeat.owed = {}


class CountingStore(MemoryStore):
    """Counts the renewals of each claim; tells those in `fenced` that they are."""

    def __init__(self) -> None:
        super().__init__()
        self.renewed: dict[bytes, int] = {}
        self.renewals = 0
        self.fenced: set[bytes] = set()

    def renew(self, claims: Collection[Claim], *, lease: float) -> set[Claim]:
        self.renewals += 1
        for each in claims:
            self.renewed[each.token] = self.renewed.get(each.token, 0) + 1
        return {each for each in claims if each.token in self.fenced}

    def count(self, attempt: Attempt) -> int:
        return self.renewed.get(attempt.claim.token, 0)


class BrokenStore(MemoryStore):
    """Fails to renew, in the way it is told to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.asked = 0

    def renew(self, claims: Collection[Claim], *, lease: float) -> set[Claim]:
        self.asked += 1
        raise self.error


def attempt_of(store: Store, name: str, *, lease: float = 30.0, claim: Claim | None = None, **policy: Any) -> Attempt:
    """An attempt that the store need not know of."""
    named = name.encode().ljust(16)
    return Attempt(
        store,
        claim or Claim(RecordKey(named), FINGERPRINT, named),
        Policy(lease=lease, **policy),
        principal=b"p" * 16,
        request_fingerprint=FINGERPRINT,
        number=1,
        lapsed=False,
    )


def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.005)


def test_all_claims_of_a_store_are_renewed_in_one_batch() -> None:
    heartbeat, store = new_heartbeat(), CountingStore()
    for number in range(50):
        heartbeat.watch(attempt_of(store, str(number), lease=1.5))
    until(lambda: len(store.renewed) == 50 and min(store.renewed.values()) >= 2)
    assert store.renewals <= 2 * max(store.renewed.values())


def test_a_claim_that_was_forgotten_is_renewed_no_more() -> None:
    heartbeat, store = new_heartbeat(), CountingStore()
    forgotten, kept = attempt_of(store, "forgotten", lease=0.3), attempt_of(store, "kept", lease=0.3)
    heartbeat.watch(forgotten)
    heartbeat.watch(kept)
    until(lambda: store.count(forgotten) > 0)
    heartbeat.forget(forgotten.claim)
    seen, later = store.count(forgotten), store.count(kept) + 4
    until(lambda: store.count(kept) >= later)
    assert store.count(forgotten) <= seen + 1


def test_a_claim_that_was_fenced_is_renewed_no_more() -> None:
    heartbeat, store = new_heartbeat(), CountingStore()
    fenced, kept = attempt_of(store, "fenced", lease=0.3), attempt_of(store, "kept", lease=0.3)
    store.fenced.add(fenced.claim.token)
    heartbeat.watch(fenced)
    heartbeat.watch(kept)
    until(lambda: store.count(kept) >= 5)
    assert store.count(fenced) == 1
    assert len(heartbeat) == 1


def test_what_a_fenced_claim_still_owes_is_written_so_that_it_is_told() -> None:
    heartbeat, store, told = new_heartbeat(), CountingStore(), threading.Event()
    fenced = attempt_of(store, "fenced", lease=0.3)
    store.fenced.add(fenced.claim.token)

    def finish() -> None:
        if not store.count(fenced):
            raise StoreUnavailable("down")
        told.set()

    fenced.state = State.DONE
    heartbeat.finish_later(fenced, finish)
    assert told.wait(TIMEOUT)
    until(lambda: not heartbeat.owed and len(heartbeat) == 0)


def test_a_short_lease_among_long_ones_is_renewed_in_time() -> None:
    heartbeat, store = new_heartbeat(), CountingStore()
    heartbeat.watch(attempt_of(store, "long", lease=3600.0))
    short = attempt_of(store, "short", lease=0.3)
    heartbeat.watch(short)
    until(lambda: store.count(short) >= 3)


def test_a_handler_that_hangs_longer_than_it_may_is_renewed_no_more(caplog: pytest.LogCaptureFixture) -> None:
    heartbeat, store = new_heartbeat(), CountingStore()
    hanging, slow = attempt_of(store, "hanging", lease=0.3, max_run=1.0), attempt_of(store, "slow", lease=0.3)
    streaming = attempt_of(store, "streaming", lease=0.3, max_run=1.0)
    streaming.state = State.ANSWERING  # its handler has returned, however long it streams
    for attempt in (hanging, slow, streaming):
        heartbeat.watch(attempt)
    until(lambda: len(heartbeat) == 2)
    assert hanging.age >= 1.0
    seen, later = store.count(hanging), store.count(slow) + 4
    assert seen >= 1
    until(lambda: store.count(slow) >= later and store.count(streaming) >= later)
    assert store.count(hanging) == seen
    assert "A handler has run for longer than max_run" in caplog.text


def test_an_end_in_hand_is_held_on_to_however_long_its_handler_ran() -> None:
    heartbeat, store, reachable = new_heartbeat(), CountingStore(), threading.Event()
    attempt = attempt_of(store, "late", lease=0.3, max_run=0.01)

    def finish() -> None:
        if not reachable.is_set():
            raise StoreUnavailable("down")

    heartbeat.finish_later(attempt, finish)
    until(lambda: store.count(attempt) >= 3)
    attempt.state = State.DONE
    reachable.set()
    until(lambda: not heartbeat.owed and len(heartbeat) == 0)


def test_a_claim_that_comes_while_the_next_beat_is_reckoned_is_not_overlooked() -> None:
    """Its lease is no shorter than those before it, which have just gone; those that are left are long."""

    class Arrival(dict[bytes, Attempt]):
        """The running claims; at the moment when they are looked at, another one comes just too late."""

        armed = False

        def values(self):  # type: ignore[no-untyped-def]
            seen = list(super().values())
            if self.armed:
                self.armed = False
                thread = threading.Thread(target=heartbeat.watch, args=(late,), daemon=True)
                thread.start()
                # It either is through, having seen what is not true any more, or waits for the look to be over.
                thread.join(0.3)
            return seen

    heartbeat, store = new_heartbeat(), CountingStore()
    early, late = attempt_of(store, "early", lease=0.3), attempt_of(store, "late", lease=0.3)
    heartbeat.watch(attempt_of(store, "long", lease=3600.0))
    heartbeat.watch(early)
    until(lambda: store.count(early) > 0)
    beats = Arrival(heartbeat._beats)
    heartbeat._beats = beats
    heartbeat.forget(early.claim)
    beats.armed = True
    until(lambda: store.count(late) >= 2)


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), ZeroDivisionError("a defect")], ids=["gone", "defective"])
def test_one_stores_trouble_does_not_let_the_claims_of_another_lapse_and_is_told_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    heartbeat, broken, sound = new_heartbeat(), BrokenStore(error), CountingStore()
    kept = attempt_of(sound, "kept", lease=0.3)
    heartbeat.watch(attempt_of(broken, "lost", lease=0.3))
    heartbeat.watch(kept)
    until(lambda: broken.asked >= 4 and sound.count(kept) >= 3)
    assert caplog.text.count("could not be renewed" if isinstance(error, ZeroDivisionError) else "gone") == 1


def test_an_answer_that_cannot_be_written_for_a_defect_does_not_hold_up_the_others() -> None:
    heartbeat, written = new_heartbeat(), threading.Event()

    def fail() -> None:
        raise ZeroDivisionError("a defect")

    heartbeat.finish_later(attempt_of(BrokenStore(ZeroDivisionError()), "1"), fail)
    heartbeat.finish_later(attempt_of(MemoryStore(), "2"), written.set)
    assert written.wait(TIMEOUT)


def test_a_store_out_of_reach_is_asked_once_a_round_however_much_it_is_owed() -> None:
    heartbeat, store = new_heartbeat(), CountingStore()
    asked: list[int] = []

    def fail() -> None:
        asked.append(store.renewals)
        raise StoreUnavailable("gone")

    for number in range(5):
        heartbeat.finish_later(attempt_of(store, str(number), lease=0.3), fail)
    until(lambda: len(asked) >= 4)
    assert len(set(asked)) == len(asked)


def test_an_end_that_its_store_never_takes_keeps_no_other_waiting() -> None:
    heartbeat, store = new_heartbeat(), MemoryStore()
    refused, mended, paid = threading.Semaphore(0), threading.Event(), threading.Semaphore(0)
    written = [threading.Event() for _ in range(3)]

    def never() -> None:
        if not mended.is_set():
            refused.release()
            raise StoreUnavailable("not this one")
        paid.release()

    for number in range(2):
        heartbeat.finish_later(attempt_of(store, f"never {number}"), never)
    assert refused.acquire(timeout=30)
    for number, event in enumerate(written):
        heartbeat.finish_later(attempt_of(store, f"written {number}"), event.set)
    assert all(event.wait(30) for event in written)
    # Nor are those given up that fail: each has its turn.
    mended.set()
    assert all(paid.acquire(timeout=30) for _ in range(2))


def test_what_is_owed_is_written_as_soon_as_it_can_be_and_the_claim_is_held_until_then() -> None:
    heartbeat, store, reachable = new_heartbeat(), CountingStore(), threading.Event()
    record, answer = RecordKey(b"r" * 16), StoredResponse("200 OK", (), b"paid")

    def claimed() -> Any:
        return store.claim(record, FINGERPRINT, lease=30.0, retention=60.0, take_over=True, durable=False)

    outcome = claimed()
    assert isinstance(outcome, Claimed)
    attempt = attempt_of(store, "r", lease=0.3, claim=outcome.claim)
    attempt.state = State.DONE

    def complete() -> None:
        if not reachable.is_set():
            raise StoreUnavailable("no room")
        store.complete(outcome.claim, answer, retention=60.0)

    heartbeat.finish_later(attempt, complete)
    until(lambda: store.count(attempt) >= 3)
    reachable.set()
    until(lambda: not heartbeat.owed)
    assert len(heartbeat) == 0
    assert claimed() == Completed(FINGERPRINT, answer)


def test_the_whole_answer_of_a_stream_is_not_lost_to_its_beginning_that_is_being_written() -> None:
    heartbeat = new_heartbeat()
    attempt = attempt_of(MemoryStore(), "stream")
    attempt.state = State.ANSWERING
    writing, go_on, whole = threading.Event(), threading.Event(), threading.Event()

    def beginning() -> None:
        writing.set()
        assert go_on.wait(TIMEOUT)

    heartbeat.finish_later(attempt, beginning)
    assert writing.wait(TIMEOUT)
    attempt.state = State.DONE
    heartbeat.finish_later(attempt, whole.set)
    go_on.set()
    assert whole.wait(TIMEOUT)
    until(lambda: not heartbeat.owed and len(heartbeat) == 0)


def test_a_repeat_has_what_is_owed_under_its_key_written_and_hears_whose_it_is_where_it_cannot_be() -> None:
    heartbeat = new_heartbeat()
    attempt = attempt_of(MemoryStore(), "owing")
    attempt.state = State.DONE
    record_id = attempt.claim.record.id
    written: list[str] = []
    reachable = False

    def finish() -> None:
        if not reachable:
            raise StoreUnavailable("no room")
        written.append("answer")

    heartbeat._thread = threading.current_thread()  # this heartbeat does not beat: only the repeat can write
    heartbeat.finish_later(attempt, finish)
    assert heartbeat.settle(b"another record!!") is None
    assert heartbeat.settle(record_id) is attempt
    reachable = True
    assert heartbeat.settle(record_id) is None
    assert heartbeat.settle(record_id) is None
    assert written == ["answer"]


def test_two_who_would_write_the_same_end_at_once_do_not() -> None:
    heartbeat = new_heartbeat()
    attempt = attempt_of(MemoryStore(), "owing")
    attempt.state = State.DONE
    writing, go_on = threading.Event(), threading.Event()

    def finish() -> None:
        writing.set()
        assert go_on.wait(TIMEOUT)

    heartbeat.finish_later(attempt, finish)
    assert writing.wait(TIMEOUT)
    assert heartbeat.settle(attempt.claim.record.id) is attempt  # the other has it in its hand
    go_on.set()
    until(lambda: not heartbeat.owed)
    assert heartbeat.settle(attempt.claim.record.id) is None


def test_a_heartbeat_that_could_not_start_starts_with_the_next_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat, store = new_heartbeat(), CountingStore()
    second = attempt_of(store, "second", lease=0.3)

    def cannot_start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot_start)
        with pytest.raises(RuntimeError):
            heartbeat.watch(attempt_of(store, "first", lease=0.3))
    heartbeat.watch(second)
    until(lambda: store.count(second) > 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_renews_none_of_its_parents_claims_and_owes_none_of_its_ends() -> None:
    heartbeat, store = new_heartbeat(), CountingStore()
    parents, childs = attempt_of(store, "parent", lease=0.3), attempt_of(store, "child", lease=0.3)
    owing = attempt_of(store, "owing", lease=0.3)

    def fail() -> None:
        raise StoreUnavailable("gone")

    heartbeat.watch(parents)
    heartbeat.finish_later(owing, fail)
    until(lambda: store.count(parents) > 0)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(20)
        store.renewed.clear()
        owed = heartbeat.owed
        heartbeat.watch(childs)
        until(lambda: store.count(childs) >= 3)
        os.write(writing, b"parent's" if owed or store.count(parents) or store.count(owing) else b"own only")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert (os.waitstatus_to_exitcode(status), os.read(reading, 100)) == (0, b"own only")
    os.close(reading)
    os.close(writing)


def test_a_haste_that_is_over_ends() -> None:
    heartbeat = Heartbeat()
    heartbeat._pause = 0.2
    heartbeat._tick()
    assert heartbeat._pause >= 10


@pytest.mark.parametrize(
    ("options", "warns"),
    [
        ({}, True),
        ({b"master": True, b"processes": b"2"}, True),
        ({b"enable-threads": True}, False),
        ({b"threads": b"2"}, False),
        ({"threads": "2"}, False),
    ],
)
def test_under_uwsgi_without_threads_it_is_said_that_claims_are_not_renewed(
    options: Any, warns: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt=options))
    heartbeat, store = new_heartbeat(), MemoryStore()
    for number in range(3):
        heartbeat.watch(attempt_of(store, str(number)))
    assert caplog.text.count("Start uWSGI with --enable-threads") == warns

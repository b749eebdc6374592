"""The thread that keeps claims from lapsing: whatever else goes wrong, it goes on."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from flask_idempotency.engine.heartbeat import Heartbeat
from flask_idempotency.engine.records import Claim, Claimed, Completed, RecordKey, StoredResponse
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import MemoryStore

TIMEOUT = 20.0
RECORD, FINGERPRINT = RecordKey(b"r" * 16), b"f" * 16


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
        heartbeat._owed = {}


class BrokenStore(MemoryStore):
    """Fails to renew, in the way it is told to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.asked = 0

    def renew(self, claims: Iterable[Claim], *, lease: float) -> None:
        self.asked += 1
        raise self.error


def claim(store: MemoryStore, *, lease: float, record: RecordKey = RECORD) -> Claim:
    outcome = store.claim(record, FINGERPRINT, lease=lease, retention=60.0)
    assert isinstance(outcome, Claimed)
    return outcome.claim


def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.005)


class CountingStore(MemoryStore):
    """Counts the renewals of each claim."""

    def __init__(self) -> None:
        super().__init__()
        self.renewed: dict[bytes, int] = {}
        self.renewals = 0

    def renew(self, claims: Iterable[Claim], *, lease: float) -> None:
        self.renewals += 1
        for each in claims:
            self.renewed[each.token] = self.renewed.get(each.token, 0) + 1


def test_all_claims_of_a_store_are_renewed_in_one_batch() -> None:
    heartbeat, store = new_heartbeat(), CountingStore()
    claims = [Claim(bytes([number]) * 16, bytes([number]) * 16) for number in range(50)]
    for each in claims:
        heartbeat.watch(store, each, 1.5)
    until(lambda: len(store.renewed) == 50 and min(store.renewed.values()) >= 2)
    assert store.renewals <= 2 * max(store.renewed.values())


def test_a_claim_that_was_forgotten_is_renewed_no_more() -> None:
    heartbeat, store = new_heartbeat(), CountingStore()
    forgotten, kept = Claim(b"f" * 16, b"f" * 16), Claim(b"k" * 16, b"k" * 16)
    heartbeat.watch(store, forgotten, 0.3)
    heartbeat.watch(store, kept, 0.3)
    until(lambda: forgotten.token in store.renewed)
    heartbeat.forget(forgotten)
    seen = store.renewed[forgotten.token]
    later = store.renewed[kept.token] + 4
    until(lambda: store.renewed[kept.token] >= later)
    assert store.renewed[forgotten.token] <= seen + 1


def test_a_short_lease_among_long_ones_is_renewed_in_time() -> None:
    heartbeat, store = new_heartbeat(), CountingStore()
    heartbeat.watch(store, Claim(b"l" * 16, b"l" * 16), 3600.0)
    short = Claim(b"s" * 16, b"s" * 16)
    heartbeat.watch(store, short, 0.3)
    until(lambda: store.renewed.get(short.token, 0) >= 3)


def test_a_claim_that_comes_while_the_next_beat_is_reckoned_is_not_overlooked() -> None:
    """Its lease is no shorter than those before it, which have just gone; those that are left are long."""

    class Arrival(dict[bytes, object]):
        """The running claims; at the moment when they are looked at, another one comes just too late."""

        armed = False

        def values(self):  # type: ignore[no-untyped-def]
            seen = list(super().values())
            if self.armed:
                self.armed = False
                thread = threading.Thread(target=heartbeat.watch, args=(store, late, 0.3), daemon=True)
                thread.start()
                # It either is through, having seen what is not true any more, or waits for the look to be over.
                thread.join(0.3)
            return seen

    heartbeat, store = new_heartbeat(), CountingStore()
    early, late = Claim(b"e" * 16, b"e" * 16), Claim(b"t" * 16, b"t" * 16)
    heartbeat.watch(store, Claim(b"l" * 16, b"l" * 16), 3600.0)
    heartbeat.watch(store, early, 0.3)
    until(lambda: early.token in store.renewed)
    beats = Arrival(heartbeat._beats)
    heartbeat._beats = beats  # type: ignore[assignment]
    heartbeat.forget(early)
    beats.armed = True
    until(lambda: store.renewed.get(late.token, 0) >= 2)


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), ZeroDivisionError("a defect")], ids=["gone", "defective"])
def test_one_stores_trouble_does_not_let_the_claims_of_another_lapse(error: Exception) -> None:
    heartbeat, broken, sound = new_heartbeat(), BrokenStore(error), CountingStore()
    lost, kept = Claim(b"l" * 16, b"l" * 16), Claim(b"k" * 16, b"k" * 16)
    heartbeat.watch(broken, lost, 0.3)
    heartbeat.watch(sound, kept, 0.3)
    until(lambda: broken.asked >= 3 and sound.renewed.get(kept.token, 0) >= 3)


def test_an_answer_that_cannot_be_written_for_a_defect_does_not_hold_up_the_others() -> None:
    heartbeat, store, written = new_heartbeat(), MemoryStore(), threading.Event()

    def fail() -> None:
        raise ZeroDivisionError("a defect")

    heartbeat.finish_later(BrokenStore(ZeroDivisionError()), Claim(b"1" * 16, b"1" * 16), 30.0, fail)
    heartbeat.finish_later(store, Claim(b"2" * 16, b"2" * 16), 30.0, written.set)
    assert written.wait(TIMEOUT)


def test_a_store_out_of_reach_is_asked_once_a_round_however_much_it_is_owed() -> None:
    heartbeat, store, asked = new_heartbeat(), CountingStore(), []

    def fail() -> None:
        asked.append(heartbeat_rounds())
        raise StoreUnavailable("gone")

    def heartbeat_rounds() -> int:
        return store.renewals

    for number in range(5):
        token = bytes([number]) * 16
        heartbeat.finish_later(store, Claim(token, token), 0.3, fail)
    until(lambda: len(asked) >= 4)
    assert len(set(asked)) == len(asked)


def test_what_is_owed_is_written_as_soon_as_it_can_be_and_the_claim_is_held_until_then() -> None:
    heartbeat, store, reachable = new_heartbeat(), CountingStore(), threading.Event()
    held = claim(store, lease=30.0)
    answer = StoredResponse("200 OK", (), b"paid")

    def complete() -> None:
        if not reachable.is_set():
            raise StoreUnavailable("no room")
        store.complete(held, answer, retention=60.0)

    heartbeat.finish_later(store, held, 0.3, complete)
    until(lambda: store.renewed.get(held.token, 0) >= 3)
    reachable.set()
    until(lambda: not heartbeat.owes)
    assert len(heartbeat) == 0
    assert store.claim(RECORD, FINGERPRINT, lease=30.0, retention=60.0) == Completed(FINGERPRINT, answer)


def test_the_whole_answer_of_a_stream_is_not_lost_to_the_tombstone_that_is_being_written() -> None:
    heartbeat, store = new_heartbeat(), MemoryStore()
    held = claim(store, lease=30.0)
    writing, go_on, whole = threading.Event(), threading.Event(), threading.Event()

    def tombstone() -> None:
        writing.set()
        assert go_on.wait(TIMEOUT)

    heartbeat.finish_later(store, held, 30.0, tombstone)
    assert writing.wait(TIMEOUT)
    heartbeat.finish_later(store, held, 30.0, whole.set)
    go_on.set()
    assert whole.wait(TIMEOUT)
    until(lambda: not heartbeat.owes and len(heartbeat) == 0)


def test_a_repeat_has_what_is_owed_under_its_key_written_before_it_claims() -> None:
    heartbeat, store = new_heartbeat(), MemoryStore()
    written: list[str] = []
    reachable = False

    def finish() -> None:
        if not reachable:
            raise StoreUnavailable("no room")
        written.append("answer")

    heartbeat._thread = threading.current_thread()  # this heartbeat does not beat: only the repeat can write
    heartbeat.finish_later(store, Claim(b"r" * 16, b"t" * 16), 30.0, finish)
    heartbeat.settle(b"another record!!")
    with pytest.raises(StoreUnavailable):
        heartbeat.settle(b"r" * 16)
    reachable = True
    heartbeat.settle(b"r" * 16)
    heartbeat.settle(b"r" * 16)
    assert written == ["answer"]


def test_a_heartbeat_that_could_not_start_starts_with_the_next_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat, store = new_heartbeat(), CountingStore()
    first, second = Claim(b"1" * 16, b"1" * 16), Claim(b"2" * 16, b"2" * 16)

    def cannot_start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot_start)
        with pytest.raises(RuntimeError):
            heartbeat.watch(store, first, 0.3)
    heartbeat.watch(store, second, 0.3)
    until(lambda: second.token in store.renewed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_does_not_renew_its_parents_claims() -> None:
    heartbeat, store = new_heartbeat(), CountingStore()
    parents, childs = Claim(b"p" * 16, b"p" * 16), Claim(b"c" * 16, b"c" * 16)
    heartbeat.watch(store, parents, 0.3)
    until(lambda: parents.token in store.renewed)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(20)
        store.renewed.clear()
        heartbeat.watch(store, childs, 0.3)
        until(lambda: store.renewed.get(childs.token, 0) >= 3)
        os.write(writing, b"parent's renewed" if parents.token in store.renewed else b"own only")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert (os.waitstatus_to_exitcode(status), os.read(reading, 100)) == (0, b"own only")
    heartbeat.forget(parents)
    os.close(reading)
    os.close(writing)


def test_a_haste_that_is_over_ends() -> None:
    heartbeat = Heartbeat()
    heartbeat._pause = 0.2
    heartbeat._tick()
    assert heartbeat._pause >= 10

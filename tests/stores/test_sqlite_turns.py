"""Processes that wait for the write lock get it in the order in which they came, and none waits for the dead."""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_idempotency.engine.records import Claimed, RecordKey
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import SQLiteStore, turnstile
from flask_idempotency.stores.turnstile import Turnstile

from ..crash.sqlite_processes import run, start
from .usual import FINGERPRINT, USUAL, strangers_claim

fcntl = pytest.importorskip("fcntl")

TIMEOUT = 20.0

CLAIM = """
store = SQLiteStore(path, busy_timeout=60.0)
claim(store, "warm up " + sys.argv[2])
print("ready", flush=True)
sys.stdin.read(1)
print(type(claim(store, sys.argv[2])).__name__)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "idempotency.db"
    SQLiteStore(path).purge(limit=1)
    return path


class Waiter:
    """A process that claims `name` when told to."""

    def __init__(self, path: Path, name: str) -> None:
        self.process = start(path, CLAIM.replace("sys.argv[2]", repr(name)), stdin=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def claim(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("!")
        self.process.stdin.flush()

    def outcome(self) -> str:
        out, err = self.process.communicate(timeout=TIMEOUT)
        assert self.process.returncode == 0, err
        return out.strip()


@pytest.fixture
def waiters(path: Path) -> Iterator[list[Waiter]]:
    waiters = [Waiter(path, f"waiter {number}") for number in range(4)]
    yield waiters
    for waiter in waiters:
        waiter.process.kill()
        waiter.process.communicate()


def taken(path: Path, place: int) -> bool:
    """Whether somebody stands at this place of the queue."""
    with open(f"{path}-turn", "rb+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError:
            return True
    return False


def until_taken(path: Path, place: int) -> None:
    ends = time.monotonic() + TIMEOUT
    while not taken(path, place):
        assert time.monotonic() < ends
        time.sleep(0.005)


def lock(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=TIMEOUT)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def in_order(path: Path) -> list[bytes]:
    connection = sqlite3.connect(path)
    ids = [row[0] for row in connection.execute("SELECT id FROM idempotency_records ORDER BY started")]
    connection.close()
    return ids


def test_who_came_first_writes_first(path: Path, waiters: list[Waiter]) -> None:
    locked = lock(path)
    for place, waiter in enumerate(waiters):
        waiter.claim()
        until_taken(path, place)
    locked.execute("ROLLBACK")
    assert [waiter.outcome() for waiter in waiters] == ["Claimed"] * 4
    expected = [RecordKey.of(b"p" * 16, f"waiter {number}").id for number in range(4)]
    assert in_order(path)[-4:] == expected
    locked.close()


def test_the_dead_leave_the_queue(path: Path, waiters: list[Waiter]) -> None:
    locked = lock(path)
    for place, waiter in enumerate(waiters[:3]):
        waiter.claim()
        until_taken(path, place)
    for waiter in waiters[:2]:
        waiter.process.send_signal(signal.SIGKILL)
        waiter.process.wait()
    until_taken(path, 0)  # the third has moved up
    locked.execute("ROLLBACK")
    assert waiters[2].outcome() == "Claimed"
    locked.close()


def test_who_was_stopped_in_the_queue_holds_nobody_up_for_long(path: Path, waiters: list[Waiter]) -> None:
    locked = lock(path)
    waiters[0].claim()
    until_taken(path, 0)
    waiters[0].process.send_signal(signal.SIGSTOP)
    locked.execute("ROLLBACK")
    # One may have to find out; from then on it is passed by.
    store = SQLiteStore(path, busy_timeout=10.0)
    for number in range(50):
        record = RecordKey.of(b"p" * 16, str(number))
        assert isinstance(store.claim(record, FINGERPRINT, **USUAL), Claimed)
    waiters[0].process.send_signal(signal.SIGCONT)
    assert waiters[0].outcome() == "Claimed"
    locked.close()


def test_who_never_waits_finds_others_in_the_queue_after_a_few_writes_and_asks_every_time_then(
    path: Path, waiters: list[Waiter]
) -> None:
    queue = Turnstile(path.with_name(f"{path.name}-turn"))
    assert queue.empty()
    locked = lock(path)
    waiters[0].claim()
    until_taken(path, 0)
    assert [queue.empty() for _ in range(10)] == [True] * 7 + [False] * 3
    locked.execute("ROLLBACK")
    assert waiters[0].outcome() == "Claimed"
    queue.close()
    locked.close()


@pytest.mark.parametrize(
    ("durable", "others", "pauses"),
    [(False, {1}, 1), (False, set(), 0), (True, {1}, 0)],
    ids=["fast, among others", "fast, alone", "durable, whose wait for the disk is pause enough"],
)
def test_a_thread_that_has_written_lets_others_of_its_process_go_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, others: set[object], pauses: int
) -> None:
    store = SQLiteStore(path, durable=durable)
    store.purge(limit=1)
    store._file._connections._known |= others
    slept: list[float] = []
    monkeypatch.setattr("flask_idempotency.stores.sqlite_file.time.sleep", slept.append)
    store.renew([strangers_claim(RecordKey(b"r" * 16))], lease=1.0)
    assert len(slept) == pauses


def test_who_waits_in_vain_is_told_so_after_the_time_that_it_may_wait(path: Path) -> None:
    locked = lock(path)
    store = SQLiteStore(path, busy_timeout=0.2)
    with pytest.raises(StoreUnavailable, match="locked"):
        store.claim(RecordKey(b"r" * 16), FINGERPRINT, **USUAL)
    assert not taken(path, 0)
    locked.execute("ROLLBACK")
    assert isinstance(store.claim(RecordKey(b"r" * 16), FINGERPRINT, **USUAL), Claimed)
    locked.close()


@pytest.mark.parametrize("hindrance", ["no fcntl", "no locks", "no such folder"])
def test_where_nobody_can_queue_everybody_may_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hindrance: str
) -> None:
    place = tmp_path / "turn"
    if hindrance == "no fcntl":
        monkeypatch.setattr(turnstile, "fcntl", None)
    elif hindrance == "no such folder":
        place = tmp_path / "nowhere" / "turn"
    else:

        def no_locks(*arguments: object) -> None:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(fcntl, "lockf", no_locks)
    queue = Turnstile(place)
    assert queue.empty()
    assert queue.enter()
    queue.leave()
    queue.close()
    assert isinstance(
        SQLiteStore(tmp_path / "idempotency.db").claim(RecordKey(b"r" * 16), FINGERPRINT, **USUAL),
        Claimed,
    )


def test_no_write_is_refused_where_four_processes_of_eight_threads_write_at_once(tmp_path: Path) -> None:
    """As `database is locked` would have it."""
    code = """
    from concurrent.futures import ThreadPoolExecutor
    store = SQLiteStore(path)
    do(store, f"{os.getpid()} opened")
    sys.stdin.read(1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: do(store, f"{os.getpid()}-{number}"), range(250)))
    print("done")
    """
    path = tmp_path / "idempotency.db"
    processes = [start(path, code, stdin=subprocess.PIPE) for _ in range(4)]
    outcomes = [process.communicate("!", timeout=100) for process in processes]
    assert [out for out, _ in outcomes] == ["done\n"] * 4, outcomes
    assert (
        run(
            path,
            "import sqlite3; print(sqlite3.connect(path).execute("
            "'SELECT count(*) FROM idempotency_records WHERE state = 4').fetchone()[0])",
        )
        == "1004"
    )
    assert os.path.exists(f"{path}-turn")

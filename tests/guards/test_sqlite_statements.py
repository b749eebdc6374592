"""What each kind of request costs the SQLite store: statements, commits, and commits that wait for the disk."""

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_idempotency.engine.records import Claimed, RecordKey
from flask_idempotency.stores import SQLiteStore

from .requests import UNTOUCHED, Kind, Shop
from .sqlite_trace import Trace

STATEMENTS = {
    Kind.FIRST: {"SELECT": 1, "INSERT": 1, "UPDATE": 1},
    Kind.REPLAY: {"SELECT": 1},
    Kind.REUSED: {"SELECT": 1},
    Kind.IN_FLIGHT: {"SELECT": 1},
    Kind.FAILED: {"SELECT": 1, "INSERT": 1, "UPDATE": 1},
    Kind.STREAMED: {"SELECT": 1, "INSERT": 1, "UPDATE": 2},
    **{kind: {} for kind in UNTOUCHED},
}

#: How a record is claimed where a test does not care.
PLAIN: dict[str, Any] = {"take_over": True, "durable": False}

#: Synced, and in all, where the store is durable.
COMMITS = {Kind.FIRST: (1, 2), Kind.FAILED: (0, 2), Kind.STREAMED: (2, 3)}


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    return Trace(monkeypatch)


def shop_on(path: Path, trace: Trace, *, durable: bool = True, **options: Any) -> Shop:
    shop = Shop(SQLiteStore(path / "records.db", durable=durable), **options)
    shop.cost(Kind.FAILED, trace.read_statements)  # the file is made, and each kind of connection stands
    shop.cost(Kind.FIRST, trace.read_statements)
    return shop


@pytest.mark.parametrize("kind", Kind)
def test_a_request_runs_no_more_statements_than_it_must(kind: Kind, trace: Trace, tmp_path: Path) -> None:
    shop = shop_on(tmp_path, trace)
    assert shop.cost(kind, trace.read_statements) == STATEMENTS[kind]


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "fast"])
@pytest.mark.parametrize("kind", Kind)
def test_only_what_is_about_to_be_answered_by_a_durable_store_waits_for_the_disk(
    kind: Kind, durable: bool, trace: Trace, tmp_path: Path
) -> None:
    shop = shop_on(tmp_path, trace, durable=durable)
    found = shop.cost(kind, trace.read_commits)
    synced, in_all = COMMITS.get(kind, (0, 0))
    assert (found["synced"], found.total()) == (synced if durable else 0, in_all)


@pytest.mark.parametrize(
    ("options", "kind", "synced"),
    [
        ({"durable_claims": True}, Kind.FIRST, 2),
        ({"on_lapse": "refuse"}, Kind.FIRST, 2),
        ({"on_error": "refuse"}, Kind.FAILED, 1),
    ],
)
def test_what_the_policy_relies_on_waits_for_the_disk_too(
    options: dict[str, Any], kind: Kind, synced: int, trace: Trace, tmp_path: Path
) -> None:
    found = shop_on(tmp_path, trace, **options).cost(kind, trace.read_commits)
    assert (found["synced"], found.total()) == (synced, 2)


def test_a_sweep_that_finds_nothing_only_reads(trace: Trace, tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "records.db")
    store.purge(limit=1)
    shop = Shop(store)
    before = trace.read_commits()
    assert shop.sixteen(trace.read_statements) == {"SELECT": 17, "INSERT": 16, "UPDATE": 16}
    assert trace.read_commits() - before == {"unsynced": 16, "synced": 16}


def test_a_sweep_that_finds_something_is_one_statement_that_does_not_wait_for_the_disk(
    trace: Trace, tmp_path: Path
) -> None:
    store = SQLiteStore(tmp_path / "records.db")
    shop = Shop(store)
    for number in range(32):
        over = store.claim(RecordKey(b"%16d" % number), b"f" * 16, **PLAIN, lease=0.0001, retention=0.0001)
        assert isinstance(over, Claimed)
    time.sleep(0.01)
    before = trace.read_commits()
    assert shop.sixteen(trace.read_statements) == {"SELECT": 17, "INSERT": 16, "UPDATE": 16, "DELETE": 1}
    assert trace.read_commits() - before == {"unsynced": 17, "synced": 16}


class Waiting:
    """A store whose file another has locked, and what threads want of it meanwhile, one after the other."""

    def __init__(self, path: Path) -> None:
        self.store = SQLiteStore(path)
        outcome = self.store.claim(RecordKey(b"finished".ljust(16)), b"f" * 16, **PLAIN, lease=60.0, retention=60.0)
        assert isinstance(outcome, Claimed)
        self._finished = outcome.claim
        self._other = sqlite3.connect(path, isolation_level=None)
        self._other.execute("BEGIN IMMEDIATE")
        self._threads: list[threading.Thread] = []

    def claim(self) -> None:
        record = RecordKey(b"fresh".ljust(16))
        self._start(lambda: self.store.claim(record, b"f" * 16, **PLAIN, lease=60.0, retention=60.0))

    def complete(self) -> None:
        self._start(lambda: self.store.complete(self._finished, None, retention=60.0))

    def _start(self, act: Callable[[], object]) -> None:
        self._threads.append(threading.Thread(target=act))
        self._threads[-1].start()
        commits, ends = self.store._file._commits, time.monotonic() + 20
        # The first leads a batch once it has found the file locked; before that, the next could come first.
        while not commits._batch or len(commits._queue) < len(self._threads) - 1:
            assert time.monotonic() < ends
            time.sleep(0.001)

    def let_go(self) -> None:
        self._other.execute("ROLLBACK")
        for thread in self._threads:
            thread.join(20)
        self._other.close()


def test_who_comes_while_a_completion_waits_for_the_lock_shares_its_commit(trace: Trace, tmp_path: Path) -> None:
    waiting = Waiting(tmp_path / "records.db")
    waiting.complete()
    waiting.claim()
    before = trace.read_commits()
    waiting.let_go()
    assert trace.read_commits() - before == {"synced": 1}


def test_a_completion_does_not_join_a_commit_that_does_not_wait_for_the_disk(trace: Trace, tmp_path: Path) -> None:
    waiting = Waiting(tmp_path / "records.db")
    waiting.claim()
    waiting.complete()
    before = trace.read_commits()
    waiting.let_go()
    assert trace.read_commits() - before == {"unsynced": 1, "synced": 1}

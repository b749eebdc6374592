"""Under load: a million expired records are swept while requests are served."""

import multiprocessing
import threading
import time
import uuid
from multiprocessing.synchronize import Event
from pathlib import Path

from flask_idempotency.engine.attempt import Attempt
from flask_idempotency.engine.engine import End, Engine
from flask_idempotency.engine.policy import Policy
from flask_idempotency.stores import SQLiteStore

from . import large_file
from .percentiles import milliseconds, percentile
from .results import Section, table

_THREADS = 4
_BATCH = 1000


def run(folder: Path, *, quick: bool) -> Section:
    """Serve with nothing to sweep, with the sweep that requests do, and beside a process that sweeps all: in turn.

    In many short turns, so that the machine's moods meet all three.
    """
    records, seconds, turns = (50_000, 0.5, 2) if quick else (1_000_000, 2.0, 25)
    live, expired = folder / "live.db", folder / "expired.db"
    nothing: list[float] = []
    swept_by_requests: list[float] = []
    beside: list[float] = []
    try:
        large_file.make(live, records, expires_in=86_400)
        large_file.make(expired, records, expires_in=-7200)
        context = multiprocessing.get_context("spawn")
        go, end = context.Event(), context.Event()
        sweeper = context.Process(target=_sweep, args=(expired, go, end))
        sweeper.start()
        by_requests, took, turn = 0, 0.0, 0
        while turn < turns and (left := _count(expired)):
            nothing += _serve(live, seconds)
            swept_by_requests += _serve(expired, seconds)
            by_requests += left - _count(expired)
            go.set()
            began = time.perf_counter()
            beside += _serve(expired, 2 * seconds)
            took += time.perf_counter() - began
            go.clear()
            turn += 1
        end.set()
        go.set()
        sweeper.join(30)
        remaining = _count(expired)
    finally:
        for path in folder.glob("*.db*"):
            if path.name.startswith(("live.db", "expired.db")):
                path.unlink()
    still = percentile(nothing, 0.99)
    rows = [
        (what, len(taken), *(milliseconds(percentile(taken, share)) for share in (0.5, 0.99)), f"{tail / still:.2f}")
        for what, taken in (
            ("nothing to sweep", nothing),
            ("swept by the requests themselves, as by default", swept_by_requests),
            (f"beside a process that sweeps {_BATCH:,} at a time", beside),
        )
        for tail in (percentile(taken, 0.99),)
    ]
    return Section(
        "Purge",
        (
            f"Fresh requests on the durable SQLite store by {_THREADS} threads, without an application around them, "
            f"while {records:,} records are expired, in {turn} turns. To reach: p99 at most 2 times that without.",
            "",
            *table(("", "requests", "p50 ms", "p99 ms", "p99, times"), rows),
            "",
            f"The requests swept {by_requests:,} records in turns of their own; the process swept "
            f"{records - by_requests - remaining:,} in {took:.0f} s, and {remaining:,} were left.",
        ),
    )


def _serve(path: Path, seconds: float) -> list[float]:
    """Serve fresh requests for so long; the seconds that each took."""
    store = SQLiteStore(path)
    engine, policy = Engine(store), Policy()
    taken: list[float] = []
    ends = time.perf_counter() + seconds

    def work() -> None:
        while time.perf_counter() < ends:
            key = str(uuid.uuid4())
            began = time.perf_counter()
            attempt = engine.begin(
                key=key,
                principal=b"p" * 16,
                fingerprint=b"f" * 16,
                request_fingerprint=b"f" * 16,
                policy=policy,
                method="POST",
                path="/orders",
            )
            assert isinstance(attempt, Attempt)
            assert engine.complete(attempt, large_file.RESPONSE) is End.WRITTEN
            taken.append(time.perf_counter() - began)

    threads = [threading.Thread(target=work) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    return taken


def _sweep(path: Path, go: Event, end: Event) -> None:
    """Sweep while `go` is set, until `end` is."""
    store = SQLiteStore(path)
    while go.wait() and not end.is_set():
        if not store.purge(limit=_BATCH):
            time.sleep(0.01)
    store.close()


def _count(path: Path) -> int:
    """How many expired records there are."""
    import sqlite3

    connection = sqlite3.connect(path)
    statement = "SELECT count(*) FROM idempotency_records WHERE expires_at <= ?"
    (count,) = connection.execute(statement, (time.time(),)).fetchone()
    connection.close()
    return int(count)

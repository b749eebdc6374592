"""Under load: a million expired records are swept while requests are served."""

import multiprocessing
import threading
import time
import uuid
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

from flask_idempotency.engine.engine import Engine, Run
from flask_idempotency.engine.policy import Policy
from flask_idempotency.stores import SQLiteStore

from . import large_file
from .percentiles import milliseconds, percentile
from .results import Section, table

_THREADS = 4
_BATCH = 1000


def run(folder: Path, *, quick: bool) -> Section:
    """Serve with nothing to sweep, with the sweep that requests do, and beside a process that sweeps all."""
    records, seconds = (50_000, 1.5) if quick else (1_000_000, 6.0)
    live, expired = folder / "live.db", folder / "expired.db"
    try:
        large_file.make(live, records, expires_in=86_400)
        large_file.make(expired, records, expires_in=-7200)
        nothing: list[float] = []
        swept_by_requests: list[float] = []
        for _ in range(2):  # in turn, so that the machine's moods meet both
            nothing += _serve(live, seconds / 2)
            swept_by_requests += _serve(expired, seconds / 2)
        left = _count(expired)
        context = multiprocessing.get_context("spawn")
        done = context.Event()
        sweeper = context.Process(target=_sweep_all, args=(expired, done))
        sweeper.start()
        began = time.perf_counter()
        beside = _serve(expired, 10 if quick else 180, until=done.is_set)
        took = time.perf_counter() - began
        stopped = not done.is_set()
        done.set()
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
    end = f"was stopped after {took:.0f} s with {remaining:,} left" if stopped else f"took {took:.0f} s"
    return Section(
        "Purge",
        (
            f"Fresh requests on the durable SQLite store by {_THREADS} threads, without an application around them, "
            f"while {records:,} records are expired. To reach: p99 at most 2 times that without.",
            "",
            *table(("", "requests", "p50 ms", "p99 ms", "p99, times"), rows),
            "",
            f"The requests swept {records - left:,} records on their way; the process that swept the other {left:,} "
            f"{end}.",
        ),
    )


def _serve(path: Path, seconds: float, until: Callable[[], bool] = lambda: False) -> list[float]:
    """Serve fresh requests for so long, or until told to stop; the seconds that each took."""
    store = SQLiteStore(path)
    engine, policy = Engine(store), Policy()
    taken: list[float] = []
    ends = time.perf_counter() + seconds

    def work() -> None:
        while time.perf_counter() < ends and not until():
            key = str(uuid.uuid4())
            began = time.perf_counter()
            decision = engine.begin(key=key, principal=b"p" * 16, fingerprint=b"f" * 16, policy=policy)
            assert isinstance(decision, Run)
            assert decision.attempt is not None
            assert engine.complete(decision.attempt, large_file.RESPONSE)
            taken.append(time.perf_counter() - began)

    threads = [threading.Thread(target=work) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    return taken


def _sweep_all(path: Path, done: Event) -> None:
    store = SQLiteStore(path)
    while not done.is_set() and store.purge(limit=_BATCH):
        pass
    store.close()
    done.set()


def _count(path: Path) -> int:
    """How many expired records there are."""
    import sqlite3

    connection = sqlite3.connect(path)
    statement = "SELECT count(*) FROM idempotency_records WHERE expires_at <= ?"
    (count,) = connection.execute(statement, (time.time(),)).fetchone()
    connection.close()
    return int(count)

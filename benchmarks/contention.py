"""How fairly several processes share one SQLite file: fresh keys, claimed and completed, by many threads at once.

    python benchmarks/contention.py --processes 4 --threads 8 --seconds 5

Prints, for one process and then for all of them, the requests per second, and per process the time of a claim and of
a completion in milliseconds (p50, p99, max). Every `StoreUnavailable` is counted: there should be none.
"""

import argparse
import multiprocessing
import tempfile
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from flask_idempotency.engine.records import Claimed, RecordKey, StoredResponse
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import SQLiteStore

RESPONSE = StoredResponse("201 CREATED", (("Content-Type", "application/json"),), b'{"id": 1}' * 20)


@dataclass
class Measured:
    """What one process saw: the seconds that each operation took, and the errors by their text."""

    claims: list[float] = field(default_factory=list)
    completions: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


def work(path: Path, durable: bool, threads: int, seconds: float, start: Barrier, results: "Queue[Measured]") -> None:
    """Claim and complete fresh keys with `threads` threads until the time is up."""
    store = SQLiteStore(path, durable=durable)
    store.purge(limit=1)  # opened before the clock runs
    measured = Measured()
    start.wait()
    ends = time.perf_counter() + seconds

    def serve() -> None:
        while time.perf_counter() < ends:
            record = RecordKey.of(b"p" * 16, str(uuid.uuid4()))
            try:
                began = time.perf_counter()
                outcome = store.claim(record, b"f" * 16, lease=30.0, retention=86_400.0, take_over=True, durable=False)
                claimed = time.perf_counter()
                assert isinstance(outcome, Claimed)
                assert store.complete(outcome.claim, RESPONSE, retention=86400)
                completed = time.perf_counter()
            except StoreUnavailable as error:
                measured.errors[str(error)] += 1
                continue
            measured.claims.append(claimed - began)
            measured.completions.append(completed - claimed)

    workers = [threading.Thread(target=serve) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    results.put(measured)


def measure(*, processes: int, threads: int, seconds: float, durable: bool, folder: str | None) -> list[Measured]:
    """Let `processes` processes work on one new file."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(processes), context.Queue()
    with tempfile.TemporaryDirectory(dir=folder) as made:
        arguments = (Path(made) / "idempotency.db", durable, threads, seconds, start, results)
        workers = [context.Process(target=work, args=arguments) for _ in range(processes)]
        for worker in workers:
            worker.start()
        measured = [results.get(timeout=seconds + 60) for _ in workers]
        for worker in workers:
            worker.join(timeout=30)
    return measured


def spread(seconds: list[float]) -> str:
    """The middle and the tail, in milliseconds."""
    if not seconds:
        return "      none       "
    ordered = sorted(seconds)
    p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return f"{p50 * 1000:7.2f} {p99 * 1000:7.2f} {ordered[-1] * 1000:7.2f}"


def report(measured: list[Measured], seconds: float) -> None:
    """Print what was seen."""
    done = sum(len(process.completions) for process in measured)
    print(f"  {done / seconds:8.0f} requests/s in {len(measured)} process(es)")
    print("              requests |  claim: p50     p99     max |  complete: p50  p99     max | errors")
    for process in measured:
        print(
            f"    process {len(process.completions):10d} | {spread(process.claims):>26} | "
            f"{spread(process.completions):>25} | {dict(process.errors) or 'none'}"
        )


def main() -> None:
    """Measure one process, then all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--folder", help="where to make the file (default: the system's folder for temporary files)")
    options = parser.parse_args()
    for durable in (True, False):
        for processes in dict.fromkeys((1, options.processes)):
            print(f"durable={durable}, {processes} process(es) x {options.threads} threads")
            report(
                measure(
                    processes=processes,
                    threads=options.threads,
                    seconds=options.seconds,
                    durable=durable,
                    folder=options.folder,
                ),
                options.seconds,
            )


if __name__ == "__main__":
    main()

"""The log is copied back while others write, and does not grow without end."""

import sqlite3
import threading
from pathlib import Path

import pytest

from flask_idempotency.engine.records import Claimed, RecordKey
from flask_idempotency.stores import SQLiteStore
from flask_idempotency.stores.sqlite_checkpoints import Checkpoints

from .usual import FINGERPRINT, USUAL

PAGE = 4096


def write(store: SQLiteStore, name: str) -> None:
    outcome = store.claim(RecordKey.of(b"p" * 16, name), FINGERPRINT, **USUAL)
    assert isinstance(outcome, Claimed)
    assert store.complete(outcome.claim, None, retention=3600.0)


def test_a_lone_writer_uses_a_short_log_over_and_over(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "idempotency.db", durable=False)
    for number in range(3000):
        write(store, str(number))
    assert (tmp_path / "idempotency.db-wal").stat().st_size < 8000 * PAGE
    store.close()


def test_writers_that_never_pause_do_not_let_the_log_grow_without_end(tmp_path: Path) -> None:
    """However often it is copied, there is always one page more; so there must be a moment in which nobody writes."""
    store = SQLiteStore(tmp_path / "idempotency.db", durable=False)

    def work(thread: int) -> None:
        for number in range(2500):
            write(store, f"{thread}-{number}")

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Some thirty thousand pages were written.
    assert (tmp_path / "idempotency.db-wal").stat().st_size < 15_000 * PAGE
    store.close()


@pytest.mark.parametrize("trouble", [sqlite3.OperationalError("disk I/O error"), OSError("gone")])
def test_a_checkpoint_that_fails_is_no_requests_trouble_and_is_tried_again(trouble: Exception) -> None:
    tries = []

    def run(statement: str) -> tuple[int, int, int]:
        tries.append(statement)
        raise trouble

    checkpoints = Checkpoints(run)
    for _ in range(3):
        checkpoints.after(2000, scattered=False)
    assert len(tries) == 3


def test_a_log_that_stays_long_is_begun_anew_once_a_moment_is_found() -> None:
    busy = iter([1, 1, 0])
    tries = []

    def run(statement: str) -> tuple[int, int, int]:
        tries.append("anew" if "RESTART" in statement else "copied")
        return (0 if "PASSIVE" in statement else next(busy)), 9000, 8990

    Checkpoints(run).after(2000, scattered=False)
    assert tries == ["copied", "anew", "anew", "anew"]

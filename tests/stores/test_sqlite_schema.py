"""A file that an older version of the library has written: its records are kept."""

import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from flask_idempotency.engine.records import Claim, Claimed, Completed, InProgress, RecordKey, StoredResponse
from flask_idempotency.stores import SQLiteStore
from flask_idempotency.stores.sqlite_schema import SCHEMA_VERSION

from ..crash.sqlite_processes import start

FINGERPRINT, TOKEN = b"f" * 16, b"t" * 16
ANSWER = StoredResponse("201 CREATED", (("Content-Type", "text/plain"),), b"done")

VERSION_1 = """
CREATE TABLE idempotency_schema (version INTEGER NOT NULL);
INSERT INTO idempotency_schema VALUES (1);
CREATE TABLE idempotency_records (
    id BLOB PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    token BLOB NOT NULL,
    number INTEGER NOT NULL,
    lease_ends REAL,
    expires_at REAL NOT NULL,
    response BLOB
);
CREATE INDEX idempotency_records_by_expiry ON idempotency_records (expires_at);
"""


def record(name: str) -> RecordKey:
    return RecordKey.of(b"p" * 16, name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of each kind of record one, and many that expire in the same moment; one that never does."""
    path, now = tmp_path / "idempotency.db", time.time()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(VERSION_1)
    kept = {
        "completed": (None, now + 3600.0, ANSWER.pack()),
        "tombstone": (None, now + 3600.0, None),
        "claimed": (now + 60.0, now + 3600.0, None),
        "for ever": (None, 1e300, ANSWER.pack()),
        **{f"over-{number}": (None, now - 1.0, None) for number in range(100)},
    }
    connection.executemany(
        "INSERT INTO idempotency_records VALUES (?, ?, ?, 1, ?, ?, ?)",
        ((record(name).id, FINGERPRINT, TOKEN, *values) for name, values in kept.items()),
    )
    connection.close()
    return path


def assert_kept(store: SQLiteStore) -> None:
    def found(name: str) -> Claimed | InProgress | Completed:
        return store.claim(record(name), FINGERPRINT, lease=60.0, retention=60.0)

    assert found("completed") == found("for ever") == Completed(FINGERPRINT, ANSWER)
    assert found("tombstone") == Completed(FINGERPRINT, None)
    assert isinstance(found("claimed"), InProgress)


def test_the_records_of_version_1_are_kept_and_swept_when_they_expire(path: Path) -> None:
    store = SQLiteStore(path)
    assert_kept(store)
    assert store.purge(limit=1000) == 100
    assert_kept(store)
    assert store.complete(Claim(record("claimed").id, TOKEN), ANSWER, retention=60.0)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT version FROM idempotency_schema").fetchall() == [(SCHEMA_VERSION,)]
    assert connection.execute("SELECT count(*) FROM idempotency_records").fetchall() == [(4,)]
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_processes_that_meet_a_file_of_version_1_at_once_all_work_on(path: Path) -> None:
    code = """
    sys.stdin.read(1)
    store = SQLiteStore(path)
    print(type(claim(store, "completed")).__name__)
    do(store, str(os.getpid()))
    """
    processes = [start(path, code, stdin=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate("!", timeout=60)[0] for process in processes] == ["Completed\n"] * 4
    assert_kept(SQLiteStore(path))


def test_records_kept_for_ever_never_run_out_of_places(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "idempotency.db", durable=False)

    def keep(name: str) -> None:
        outcome = store.claim(record(name), FINGERPRINT, lease=60.0, retention=1e300)
        assert isinstance(outcome, Claimed)
        assert store.complete(outcome.claim, ANSWER, retention=1e300)

    keep("first")
    connection = sqlite3.connect(tmp_path / "idempotency.db", isolation_level=None)
    # As if a million had come already.
    connection.execute("UPDATE idempotency_records SET place = place + 999999")
    for name in ("second", "third"):
        keep(name)
    places = [place for (place,) in connection.execute("SELECT place FROM idempotency_records ORDER BY place")]
    assert [place - places[0] for place in places] == [0, 1, 2]
    connection.close()

"""A file that an older version of the library has written: its records are kept."""

import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from flask_idempotency.engine.records import (
    Claim,
    Claimed,
    Completed,
    InProgress,
    Lapsed,
    RecordKey,
    Standing,
    StoredResponse,
)
from flask_idempotency.stores import SQLiteStore, sqlite
from flask_idempotency.stores.sqlite_schema import (
    _LAST_FIRST_PLACE,
    _NO_PLACE,
    _PLACES_IN_THE_LAST,
    SCHEMA_VERSION,
)

from ..crash.sqlite_processes import start
from .usual import FINGERPRINT, PLAIN, USUAL, claimed

TOKEN = b"t" * 16
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


VERSION_2 = """
CREATE TABLE idempotency_schema (version INTEGER NOT NULL);
INSERT INTO idempotency_schema VALUES (2);
CREATE TABLE idempotency_records (
    place INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    fingerprint BLOB NOT NULL,
    token BLOB NOT NULL,
    number INTEGER NOT NULL,
    lease_ends REAL,
    expires_at REAL NOT NULL,
    response BLOB
);
"""


def record(name: str) -> RecordKey:
    return RecordKey.of(b"p" * 16, name)


@pytest.fixture(params=[VERSION_1, VERSION_2], ids=["version 1", "version 2"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Of each kind of record one, and many that expire in the same moment; one that never does."""
    path, now = tmp_path / "idempotency.db", time.time()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(request.param)
    kept = {
        "completed": (None, now + 3600.0, ANSWER.pack()),
        "tombstone": (None, now + 3600.0, None),
        "claimed": (now + 60.0, now + 3600.0, None),
        "lapsed": (now - 60.0, now + 3600.0, None),
        "for ever": (None, 1e300, ANSWER.pack()),
        **{f"over-{number}": (None, now - 1.0, None) for number in range(100)},
    }
    connection.executemany(
        "INSERT INTO idempotency_records (id, fingerprint, token, number, lease_ends, expires_at, response) "
        "VALUES (?, ?, ?, 1, ?, ?, ?)",
        ((record(name).id, FINGERPRINT, TOKEN, *values) for name, values in kept.items()),
    )
    connection.close()
    return path


def assert_kept(store: SQLiteStore) -> None:
    def found(name: str) -> Standing:
        return store.claim(record(name), FINGERPRINT, **USUAL | {"take_over": False})

    assert found("completed") == found("for ever") == Completed(FINGERPRINT, ANSWER)
    assert found("tombstone") == Completed(FINGERPRINT, None)
    assert isinstance(found("claimed"), InProgress)
    assert found("lapsed") == Lapsed(FINGERPRINT)


def test_the_records_of_an_older_version_are_kept_and_swept_when_they_expire(path: Path) -> None:
    store = SQLiteStore(path)
    assert_kept(store)
    assert store.purge(limit=1000) == 100
    assert_kept(store)
    assert store.complete(Claim(record("claimed"), FINGERPRINT, TOKEN), ANSWER, retention=60.0)
    taken = store.claim(record("lapsed"), FINGERPRINT, **USUAL)
    assert isinstance(taken, Claimed)
    assert (taken.number, taken.lapsed) == (2, True)
    assert store.keep_step(taken.claim, "charge", b"paid", retention=60.0)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT version FROM idempotency_schema").fetchall() == [(SCHEMA_VERSION,)]
    assert connection.execute("SELECT count(*) FROM idempotency_records").fetchall() == [(5,)]
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_processes_that_meet_a_file_of_an_older_version_at_once_all_work_on(path: Path) -> None:
    code = """
    sys.stdin.read(1)
    store = SQLiteStore(path)
    print(type(claim(store, "completed")).__name__)
    do(store, str(os.getpid()))
    """
    processes = [start(path, code, stdin=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate("!", timeout=60)[0] for process in processes] == ["Completed\n"] * 4
    assert_kept(SQLiteStore(path))


def test_records_kept_for_ever_never_run_out_of_places_and_are_never_due(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "idempotency.db", durable=False)
    for number in range(3):
        claim = claimed(store.claim(record(str(number)), FINGERPRINT, **PLAIN, lease=60.0, retention=1e300))
        assert store.complete(claim, ANSWER, retention=1e300)
    connection = sqlite3.connect(tmp_path / "idempotency.db", isolation_level=None)
    places = [place for (place,) in connection.execute("SELECT place FROM idempotency_records")]
    connection.close()
    # There are a thousand million times as many as records can be.
    assert max(places) - min(places) < 10
    assert all(_LAST_FIRST_PLACE <= place < _LAST_FIRST_PLACE + _PLACES_IN_THE_LAST <= _NO_PLACE for place in places)
    assert store.purge(limit=10) == 0


def test_who_meets_a_place_that_is_taken_takes_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SQLiteStore(tmp_path / "idempotency.db", durable=False)
    places = iter([7, 7, 7, 8])
    monkeypatch.setattr(sqlite, "any_place", lambda moment: next(places))
    claims = [claimed(store.claim(record(str(number)), FINGERPRINT, **USUAL)) for number in range(2)]
    assert not list(places)
    assert all(store.complete(claim, ANSWER, retention=60.0) for claim in claims)


def test_steps_go_with_a_record_that_is_deleted_by_hand(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "idempotency.db", durable=False)
    claim = claimed(store.claim(record("k"), FINGERPRINT, **USUAL))
    store.keep_step(claim, "charge", b"paid", retention=60.0)
    connection = sqlite3.connect(tmp_path / "idempotency.db", isolation_level=None)
    connection.execute("DELETE FROM idempotency_records")
    assert connection.execute("SELECT * FROM idempotency_steps").fetchall() == []
    connection.close()


def test_what_the_key_was_and_where_it_went_is_kept_for_whoever_operates_the_store(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "idempotency.db", durable=False)
    asked = RecordKey.of(b"p" * 16, "the-key", method="PATCH", path="/orders/7")
    store.release(claimed(store.claim(asked, FINGERPRINT, **USUAL)), retention=60.0)
    store.claim(RecordKey.of(b"p" * 16, "the-key", method="POST", path="/orders"), FINGERPRINT, **USUAL)
    connection = sqlite3.connect(tmp_path / "idempotency.db", isolation_level=None)
    kept = connection.execute("SELECT key, method, path FROM idempotency_records").fetchall()
    assert kept == [("the-key", "POST", "/orders")]
    connection.close()

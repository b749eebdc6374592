"""Makes SQLite files of millions of records in little time: by SQL, past the store and without waiting for the disk."""

import os
import random
import sqlite3
import time
from pathlib import Path

from flask_idempotency.engine.records import StoredResponse
from flask_idempotency.stores import SQLiteStore
from flask_idempotency.stores.sqlite_schema import first_place
from flask_idempotency.stores.states import COMPLETED

RESPONSE = StoredResponse(
    "201 CREATED",
    (("Content-Type", "application/json"), ("Content-Length", "92")),
    b'{"id":1234567,"item":"The Mythical Man-Month","quantity":2,"status":"placed","total":"71.90"}\n',
)

_FILL = """
INSERT INTO idempotency_records (
    place, id, fingerprint, token, number, state, started, lease_ends, retention, expires_at, key, method, path,
    response
)
WITH RECURSIVE count (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM count WHERE n + 1 < :records)
SELECT :first + n * ((:last - :first) / :records), randomblob(16), randomblob(16), randomblob(16), 1,
    :completed, :earliest - 86400, 0.0, 86400.0, :earliest + :span * n / :records,
    printf('%08x-%04x-4%03x-8%03x-%012x', n, n % 65536, n % 4096, n % 4096, n), 'POST', '/orders', :response
FROM count
"""


def make(path: Path, records: int, *, expires_in: float, span: float = 3600.0) -> None:
    """A file with so many completed records that expire from `expires_in` seconds from now on, over `span` seconds."""
    store = SQLiteStore(path)
    store.purge(limit=1)  # makes the tables
    store.close()
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=DELETE", "journal_mode=OFF", "synchronous=OFF", "cache_size=-2000000"):
        connection.execute(f"PRAGMA {pragma}")
    earliest = time.time() + expires_in
    values = {
        "records": records,
        "earliest": earliest,
        "span": span,
        "first": first_place(earliest),
        "last": first_place(earliest + span),
        "completed": COMPLETED,
        "response": RESPONSE.pack(),
    }
    connection.execute(_FILL, values)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    write_back(path)


def write_back(path: Path) -> None:
    """Wait until the file is on the disk: else the measurement pays for it."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def evict(path: Path) -> None:
    """Have the system drop what it holds of the file in memory, so that reading it means the disk."""
    write_back(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def some_ids(path: Path, count: int) -> list[bytes]:
    """The ids of some of the records, from all over the file and in no order."""
    connection = sqlite3.connect(path)
    first, last = connection.execute(
        "SELECT (SELECT min(place) FROM idempotency_records), (SELECT max(place) FROM idempotency_records)"
    ).fetchone()
    find = "SELECT id FROM idempotency_records WHERE place >= ? LIMIT 1"
    found = [connection.execute(find, (random.randint(first, last),)).fetchone() for _ in range(count)]
    connection.close()
    return [row[0] for row in found]

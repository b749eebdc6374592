"""The tables in the file, and how they come to be: in a new file, and in one of an older version."""

import os
import sqlite3
from itertools import count
from secrets import randbits

from ..engine.store import StoreUnavailable
from .states import CLAIMED, COMPLETED

#: The layout of the tables below. A file with another number was written by another version of the library.
SCHEMA_VERSION = 3

#: How many places there are in each millisecond.
_PLACES = 1_000_000

#: The year 2255. Whatever expires later is looked at then.
_LAST_MILLISECOND = 9_000_000_000_000

#: In the last millisecond there is no end of places: who keeps records for ever may have more than a million.
_LAST_FIRST_PLACE, _PLACES_IN_THE_LAST, _NO_PLACE = _LAST_MILLISECOND * _PLACES, 2**57, 2**63 - 1

# The place of a record is the order in which the sweep looks at it, in the table itself: there is no other index to
# be kept beside that of the ids, and new records stand side by side. The response comes last: what is long spills over
# into pages of its own, and whatever came after it would have to be looked for there.
_RECORDS = """
CREATE TABLE idempotency_records (
    place INTEGER PRIMARY KEY,  -- the millisecond of the epoch in which the sweep looks at it, and a random number
    id BLOB NOT NULL UNIQUE,
    fingerprint BLOB NOT NULL,
    token BLOB NOT NULL,
    number INTEGER NOT NULL,
    state INTEGER NOT NULL,     -- 0 claimed, 1 answering, 2 released, 3 abandoned, 4 completed
    started REAL NOT NULL,      -- epoch seconds
    lease_ends REAL NOT NULL,   -- epoch seconds; of a claimed or answering record
    retention REAL NOT NULL,    -- seconds, as the claim had it
    expires_at REAL NOT NULL,   -- epoch seconds; infinite while its outcome is unknown and may not be guessed
    key TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    response BLOB               -- NULL in a completed record: a tombstone
)
"""

_STEPS = """
CREATE TABLE idempotency_steps (
    record_id BLOB NOT NULL,
    name TEXT NOT NULL,
    result BLOB,                -- NULL: it began, and nothing was kept of it
    PRIMARY KEY (record_id, name)
) WITHOUT ROWID
"""

# Whoever deletes a record, by hand, too, deletes its steps.
_STEPS_GO_WITH_THEIR_RECORD = """
CREATE TRIGGER idempotency_steps_go AFTER DELETE ON idempotency_records
BEGIN DELETE FROM idempotency_steps WHERE record_id = old.id; END
"""

_CREATE = (
    "CREATE TABLE idempotency_schema (version INTEGER NOT NULL)",
    f"INSERT INTO idempotency_schema VALUES ({SCHEMA_VERSION})",
    _RECORDS,
    _STEPS,
    _STEPS_GO_WITH_THEIR_RECORD,
)

# Until then, a record was completed where it had no lease, and claimed otherwise. Version 1 had no places.
_FROM_OLDER = (
    "ALTER TABLE idempotency_records RENAME TO idempotency_records_older",
    _RECORDS,
    f"""
    INSERT INTO idempotency_records
    SELECT CAST(min(expires_at * 1000, {_LAST_MILLISECOND}) AS INTEGER) * {_PLACES}
            + row_number() OVER (PARTITION BY CAST(min(expires_at * 1000, {_LAST_MILLISECOND}) AS INTEGER)) - 1,
        id, fingerprint, token, number, iif(lease_ends IS NULL, {COMPLETED}, {CLAIMED}),
        strftime('%s', 'now') + 0.0, coalesce(lease_ends, 0.0), max(expires_at - strftime('%s', 'now'), 0.0),
        expires_at, '', '', '', response
    FROM idempotency_records_older ORDER BY 1
    """,
    "DROP TABLE idempotency_records_older",
    _STEPS,
    _STEPS_GO_WITH_THEIR_RECORD,
    f"UPDATE idempotency_schema SET version = {SCHEMA_VERSION}",
)

_MIGRATIONS: dict[object, tuple[str, ...]] = {1: _FROM_OLDER, 2: _FROM_OLDER}

_HAS_SCHEMA = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'idempotency_schema'"


def first_place(moment: float) -> int:
    """The first place of what is looked at at `moment`, in epoch seconds: all that stand before it come earlier."""
    return int(min(moment * 1000, _LAST_MILLISECOND)) * _PLACES


def next_place(moment: float) -> int:
    """The first place after those of what is looked at at `moment`, in epoch seconds."""
    first = first_place(moment)
    return first + _PLACES if first < _LAST_FIRST_PLACE else _NO_PLACE


def any_place(moment: float) -> int:
    """One of the places of what is looked at at `moment`. It may be taken; then ask for another.

    To look for one that is free costs SQLite more than to guess. One after the other in each process, since to add at
    the end costs it least.
    """
    millisecond = moment * 1000
    if millisecond < _LAST_MILLISECOND:
        return int(millisecond) * _PLACES + next(_running) % _PLACES
    return _LAST_FIRST_PLACE + next(_running) % _PLACES_IN_THE_LAST


_running = count()


def _begin_anywhere() -> None:
    """Number on from somewhere else than other processes do."""
    global _running
    _running = count(randbits(62))


_begin_anywhere()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anywhere)


def make_ready(connection: sqlite3.Connection, name: str) -> None:
    """Make the tables where there are none, bring those of an older version up to date, and refuse those of a newer.

    What is refused stays untouched.
    """
    version = _version(connection)
    if version is None:
        connection.execute("PRAGMA journal_mode=WAL")
    if version != SCHEMA_VERSION and (version is None or version in _MIGRATIONS):
        connection.execute("BEGIN IMMEDIATE")
        version = _version(connection)  # another may have been faster
        for statement in _CREATE if version is None else _MIGRATIONS.get(version, ()):
            connection.execute(statement)
        connection.execute("COMMIT")
        version = _version(connection)
    if version != SCHEMA_VERSION:
        raise StoreUnavailable(
            f"SQLite file {name} has the layout {version} of another version of flask_idempotency; "
            f"this one knows {SCHEMA_VERSION}"
        )


def _version(connection: sqlite3.Connection) -> object:
    """The version of the tables; None where there are none."""
    if connection.execute(_HAS_SCHEMA).fetchone() is None:
        return None
    found = connection.execute("SELECT version FROM idempotency_schema").fetchone()
    return found[0] if found else 0

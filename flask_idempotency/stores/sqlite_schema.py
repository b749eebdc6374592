"""The tables in the file, and how they come to be: in a new file, and in one of an older version."""

import sqlite3

from ..engine.store import StoreUnavailable

#: The layout of the tables below. A file with another number was written by another version of the library.
SCHEMA_VERSION = 2

#: How many places there are in each millisecond.
_PLACES = 1_000_000

#: The year 2255. Whatever expires later is looked at then.
_LAST_MILLISECOND = 9_000_000_000_000

#: In the last millisecond there is no end of places: who keeps records for ever may have more than a million.
_LAST_FIRST_PLACE, _NO_PLACE = _LAST_MILLISECOND * _PLACES, 2**63 - 1

# The place of a record is the order in which the sweep looks at it, in the table itself: there is no other index to
# be kept beside that of the ids, and new records stand side by side.
_RECORDS = """
CREATE TABLE idempotency_records (
    place INTEGER PRIMARY KEY,  -- the millisecond of the epoch before which it does not expire, and a running number
    id BLOB NOT NULL UNIQUE,
    fingerprint BLOB NOT NULL,
    token BLOB NOT NULL,
    number INTEGER NOT NULL,
    lease_ends REAL,            -- epoch seconds; NULL once completed
    expires_at REAL NOT NULL,   -- epoch seconds; never before lease_ends
    response BLOB               -- NULL in a completed record: a tombstone
)
"""

_CREATE = (
    "CREATE TABLE idempotency_schema (version INTEGER NOT NULL)",
    f"INSERT INTO idempotency_schema VALUES ({SCHEMA_VERSION})",
    _RECORDS,
)

# The order of expiry was an index then.
_FROM_1 = (
    "ALTER TABLE idempotency_records RENAME TO idempotency_records_1",
    _RECORDS,
    f"""
    INSERT INTO idempotency_records
    SELECT CAST(min(expires_at * 1000, {_LAST_MILLISECOND}) AS INTEGER) * {_PLACES}
            + row_number() OVER (PARTITION BY CAST(min(expires_at * 1000, {_LAST_MILLISECOND}) AS INTEGER)) - 1,
        id, fingerprint, token, number, lease_ends, expires_at, response
    FROM idempotency_records_1 ORDER BY 1
    """,
    "DROP TABLE idempotency_records_1",
    f"UPDATE idempotency_schema SET version = {SCHEMA_VERSION}",
)

_MIGRATIONS: dict[object, tuple[str, ...]] = {1: _FROM_1}

_HAS_SCHEMA = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'idempotency_schema'"


def first_place(moment: float) -> int:
    """The first place of what expires at `moment`, in epoch seconds: all that stand before it expire earlier."""
    return int(min(moment * 1000, _LAST_MILLISECOND)) * _PLACES


def next_place(moment: float) -> int:
    """The first place after those of what expires at `moment`, in epoch seconds."""
    first = first_place(moment)
    return first + _PLACES if first < _LAST_FIRST_PLACE else _NO_PLACE


def free_place(parameter: str) -> str:
    """SQL for the first free place from `first_place(…)` on, which `parameter` stands for."""
    last = f"iif({parameter} < {_LAST_FIRST_PLACE}, {parameter} + {_PLACES - 1}, {_NO_PLACE - 1})"
    return (
        f"coalesce((SELECT max(place) + 1 FROM idempotency_records WHERE place BETWEEN {parameter} AND {last}), "
        f"{parameter})"
    )


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

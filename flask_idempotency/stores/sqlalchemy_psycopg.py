"""Prepared statements of psycopg, which save PostgreSQL two thirds of its work: where a session is ours alone.

Poolers in transaction mode (PgBouncer) hand the same session to others between two transactions. A statement that was
prepared on it is unknown on the next; and what was set on it stays for strangers.
"""

import secrets
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import PoolProxiedConnection

from .sqlalchemy_call import Call
from .watchdog import watchdog

# In a pooled connection's `info`. Whether nobody shares the session: it may be set up, and statements may be prepared.
_IS_ALONE = "flask_idempotency.is_alone"

# The cursor that it keeps: a new one would look up anew how each parameter and column is written.
_CURSOR = "flask_idempotency.cursor"

#: How often psycopg sends a statement before it prepares it unasked: in effect never.
_NEVER = 1 << 62

# A prepared statement that the session does not know; or whose columns a migration has changed.
_ANOTHERS = "26000"
_CHANGED = "0A000"


def look_whether_alone(connection: Any, record: Any) -> None:
    """Find out, once per connection, whether a pooler stands before the server."""
    # A pooler gives its clients process ids of its own, with which they may cancel what they began.
    (process,) = connection.execute("SELECT pg_backend_pid()").fetchone()
    prepared: Any = getattr(connection, "_prepared", None)
    if process != connection.info.backend_pid or not hasattr(prepared, "_prepared_idx"):
        return
    # By names that no other session has used: should a pooler hide so well that it is not noticed, the server does not
    # know the statement, instead of running a stranger's.
    prepared._prepared_idx = secrets.randbits(62)
    connection.prepare_threshold = _NEVER
    # A plan is kept for as long as the session. One that was made while the table was small, reading all of it, would
    # be the slowest there is once it has grown.
    connection.execute("SELECT set_config('enable_seqscan', 'off', false)")
    record.info[_IS_ALONE] = True


def execute(
    pooled: PoolProxiedConnection, call: Call, values: Mapping[str, Any], *, prepare: bool, patience: float
) -> Any:
    """Run a statement on an idle connection, for so many seconds at most; the cursor, which its next caller uses."""
    info, driver = pooled.info, pooled.dbapi_connection
    assert driver is not None
    cursor: Any = info.get(_CURSOR)
    if cursor is None:
        cursor = info[_CURSOR] = driver.cursor(binary=True)
    # Of the drivers, psycopg alone has no time-out for an answer.
    watchdog.watch(cursor, driver.fileno, time.monotonic() + patience)
    try:
        return cursor.execute(call.sql, values, prepare=prepare and _IS_ALONE in info)
    finally:
        watchdog.let_go(cursor)


def is_stale(error: Any) -> bool:
    """Whether a prepared statement was refused, before anything was done."""
    return error.sqlstate in (_ANOTHERS, _CHANGED)


def is_anothers(error: Any) -> bool:
    """Whether the session was exchanged for another by a pooler that nobody has noticed."""
    return bool(error.sqlstate == _ANOTHERS)

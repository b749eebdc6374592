"""Prepared statements through psycopg, which save PostgreSQL most of its work: where a session is ours alone.

Poolers in transaction mode (PgBouncer) hand the same session to others between two transactions. A statement that was
prepared on it is unknown on the next; and what was set on it stays for strangers.
"""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct
from typing import Any, Self

from psycopg import DatabaseError, DataError, OperationalError, errors, pq
from sqlalchemy import PoolProxiedConnection

from .sqlalchemy_call import Call
from .watchdog import watchdog

answers: Any
try:
    from psycopg.generators import execute as answers
except ImportError:
    answers = None  # another version, whose cursors serve as well

# In a pooled connection's `info`. What is prepared on its session, by name; nothing where others may share it.
_PREPARED = "flask_idempotency.prepared"

# The cursor for those that are not prepared: a new one would look up anew how each value is written.
_CURSOR = "flask_idempotency.cursor"

# What the server says of a statement that the session does not know, or knows already, though by no doing of ours.
_ANOTHERS = {"26000", "42P05"}

# And of one whose columns a migration has changed.
_CHANGED = "0A000"

_FLOAT = Struct("!d")

# PostgreSQL's number of each parameter's type, and how its binary form is written.
_BYTEA: tuple[int, Callable[[Any], bytes]] = (17, bytes)
_FLOAT8: tuple[int, Callable[[Any], bytes]] = (701, _FLOAT.pack)
_INT8: tuple[int, Callable[[Any], bytes]] = (20, Struct("!q").pack)
_BOOL: tuple[int, Callable[[Any], bytes]] = (16, Struct("!?").pack)
_TEXT: tuple[int, Callable[[Any], bytes]] = (25, str.encode)
_KINDS = {
    **dict.fromkeys(("id", "token", "nobody", "fingerprint", "name", "result", "response"), _BYTEA),
    **dict.fromkeys(("key", "method", "path", "state"), _TEXT),
    **dict.fromkeys(("lease", "longest", "retention"), _FLOAT8),
    **dict.fromkeys(("kept", "limit"), _INT8),
    **dict.fromkeys(("take_over", "done"), _BOOL),
}

_LOAD: dict[int, Callable[[bytes], Any]] = {
    16: lambda value: value == b"\x01",
    17: bytes,
    701: lambda value: _FLOAT.unpack(value)[0],
    **dict.fromkeys((25, 1043), bytes.decode),
    **dict.fromkeys((20, 21, 23), lambda value: int.from_bytes(value, "big", signed=True)),
}


#: What a statement's columns are read with. The same for as long as it is prepared: one that changes is refused.
Loaders = tuple[tuple[int, Callable[[bytes], Any]], ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement under a name that says what it does.

    Should a pooler hide so well that it is not noticed, the server runs this statement under this name, or says that
    it does not know it; never a stranger's.
    """

    name: bytes
    sql: bytes
    parameters: tuple[tuple[str, Callable[[Any], bytes]], ...]
    types: tuple[int, ...]
    binary: tuple[int, ...]

    @classmethod
    def of(cls, call: Call) -> Self:
        """`call`, with its parameters as the server numbers them."""
        names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", call.sql)))
        sql = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", call.sql).replace("%%", "%")
        return cls(
            name=b"idempotency_" + blake2b(sql.encode(), digest_size=12).hexdigest().encode(),
            sql=sql.encode(),
            parameters=tuple((name, _KINDS[name][1]) for name in names),
            types=tuple(_KINDS[name][0] for name in names),
            binary=(1,) * len(names),
        )


def look_whether_alone(connection: Any, record: Any) -> None:
    """Find out, once per connection, whether a pooler stands before the server."""
    # A pooler gives its clients process ids of its own, with which they may cancel what they began.
    (process,) = connection.execute("SELECT pg_backend_pid()").fetchone()
    if process != connection.info.backend_pid or answers is None:
        return
    _try_out(connection)
    # A plan is kept for as long as the session. One that was made while the table was small, reading all of it, would
    # be the slowest there is once it has grown.
    connection.execute("SELECT set_config('enable_seqscan', 'off', false)")
    record.info[_PREPARED] = {}


def _try_out(connection: Any) -> None:
    """Not all that is used here of psycopg is documented. One that is another inside is used by its cursors."""
    global answers
    try:
        _execute_prepared(connection, {}, Prepared(b"", b"SELECT 1", (), (), ()), {})
    except (AttributeError, TypeError, ValueError) as error:
        answers = None
        connection.close()  # its answers are on their way still
        raise OperationalError("this connection could not be tried out") from error


class Sessions:
    """Runs statements on the sessions of one engine: prepared where that may be, by psycopg's cursors elsewhere."""

    def __init__(self) -> None:
        self._may_prepare = True
        self._prepared: dict[str, Prepared] = {}

    def execute(
        self, pooled: PoolProxiedConnection, call: Call, values: Mapping[str, Any], *, patience: float
    ) -> tuple[Any, int]:
        """The first row that a statement returns, if it returns any, and how many rows it changed.

        For so many seconds at most: of the drivers, psycopg alone has no time-out for an answer.
        """
        info = pooled.info
        driver: Any = pooled.dbapi_connection
        waiting = watchdog.watch(driver.fileno, time.monotonic() + patience)
        try:
            # Names of tables that are not ASCII are for cursors, which know the session's encoding.
            if self._may_prepare and _PREPARED in info and call.sql.isascii():
                prepared = self._prepared.get(call.sql)
                if prepared is None:
                    prepared = self._prepared[call.sql] = Prepared.of(call)
                return _execute_prepared(driver, info[_PREPARED], prepared, values)
            cursor: Any = info.get(_CURSOR)
            if cursor is None:
                cursor = info[_CURSOR] = driver.cursor(binary=True)
            cursor.execute(call.sql, values, prepare=False)
            return (cursor.fetchone() if cursor.pgresult.nfields else None), cursor.rowcount
        finally:
            watchdog.let_go(waiting)

    def spoilt(self, driver: Any, error: Any) -> bool:
        """Whether a connection that stands must not be used again. On a new one, the same call may pass."""
        # Where libpq had no memory for an answer, that is on its way still.
        idle = driver.pgconn.transaction_status == pq.TransactionStatus.IDLE
        return self._was_stale(error) or not idle

    def _was_stale(self, error: Any) -> bool:
        """Whether a prepared statement was refused, before anything was done."""
        if error.sqlstate in _ANOTHERS:
            # A pooler that was not noticed has exchanged the session for another.
            self._may_prepare = False
            return True
        return bool(error.sqlstate == _CHANGED)


def _execute_prepared(
    driver: Any, known: dict[bytes, Loaders], prepared: Prepared, values: Mapping[str, Any]
) -> tuple[tuple[Any, ...] | None, int]:
    # As psycopg's cursors do it, without what they look up for values of any type: that takes as long as the server.
    session = driver.pgconn
    name = prepared.name
    if name not in known:
        session.send_prepare(name, prepared.sql, prepared.types)
        _the_one_of(driver.wait(answers(session)))
        known[name] = ()
    written = [None if (value := values[key]) is None else write(value) for key, write in prepared.parameters]
    session.send_query_prepared(name, written, prepared.binary, 1)
    result = _the_one_of(driver.wait(answers(session)))
    if not result.ntuples:
        return None, result.command_tuples or 0
    loaders = known[name]
    if not loaders:
        loaders = known[name] = tuple((column, _loader(result, column)) for column in range(result.nfields))
    get = result.get_value
    row = [None if (value := get(0, column)) is None else load(value) for column, load in loaders]
    return tuple(row), result.ntuples


def _loader(result: Any, column: int) -> Callable[[bytes], Any]:
    load = _LOAD.get(result.ftype(column))
    if load is None:
        raise DataError(f"column {column + 1} is of a type that records do not have")
    return load


def _the_one_of(results: list[Any]) -> Any:
    if not results:
        raise OperationalError("no answer came")
    # A statement that returned may still fail at its commit, or the session end with it: that is told behind its rows.
    result = results[-1]
    if result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        return result
    code = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    told = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
    kind: type[Exception] = DatabaseError
    with suppress(KeyError):
        kind = errors.lookup(code)
    raise kind(told)

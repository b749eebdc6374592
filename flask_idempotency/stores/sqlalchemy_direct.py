"""Sends statements on the driver's own connections, out of SQLAlchemy's pool.

What SQLAlchemy does for each statement beyond that costs as much as the statement itself.
"""

import logging
from collections.abc import Mapping
from contextlib import closing, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Pool, PoolProxiedConnection
from sqlalchemy.exc import DBAPIError

from .sqlalchemy_call import Call

if TYPE_CHECKING:
    from .sqlalchemy_psycopg import Sessions

_logger = logging.getLogger("sqlalchemy.engine")

#: How many connections are kept out of the pool: fewer than it has, so that those who ask it find one.
_AT_HAND = 4

#: Seconds that one may be kept there unused: then the pool looks whether it is too old.
_STANDS = 60.0

#: What forked children have of their parents. Never let go of, since that would be the end of the parents' sessions.
_of_parents: list[object] = []


class Direct:
    """The driver behind an engine that is at autocommit.

    Connections come from the engine's pool and are not given back but kept at hand: to take one out of the pool and put
    it back costs more than all else here.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._psycopg = _sessions() if engine.dialect.driver == "psycopg" else None
        self._at_hand: list[tuple[PoolProxiedConnection, Pool, float]] = []

    @property
    def is_open(self) -> bool:
        """Whether nobody would miss what SQLAlchemy does: listeners to its events (tracing, say), or its log."""
        engine: Any = self._engine
        listened: Any = getattr(engine, "_has_events", True) or getattr(Connection, "_has_events", True)
        return not listened and not _logger.isEnabledFor(logging.INFO)

    def run(self, call: Call, values: Mapping[str, Any], *, patience: float) -> tuple[Any, int]:
        """The first row that a statement returns, if it returns any, and how many rows it changed.

        Raises what SQLAlchemy's `Connection` raises.
        """
        dialect: Any = self._engine.dialect
        pool = self._engine.pool
        try:
            pooled = self._take()
        except dialect.loaded_dbapi.Error as error:
            raise _wrapped(None, error, dialect, lost=False) from error
        driver: Any = pooled.dbapi_connection
        try:
            if self._psycopg is not None:
                row, changed = self._psycopg.execute(pooled, call, values, patience=patience)
            else:
                with closing(driver.cursor()) as cursor:
                    cursor.execute(call.sql, call.parameters(values))
                    # All of them, though there is one: SQLite ends a statement with its last row.
                    row = next(iter(cursor.fetchall()), None) if cursor.description else None
                    changed = cursor.rowcount
        except dialect.loaded_dbapi.Error as error:
            if dialect.is_disconnect(error, driver, None):
                pooled.invalidate(error)
                if self._engine.pool is pool:
                    # What happened to one connection most likely happened to all.
                    self.give_back()
                    self._engine.dispose()
                raise _wrapped(call, error, dialect, lost=True) from error
            if self._psycopg is not None and self._psycopg.spoilt(driver, error):
                pooled.invalidate(error)
                raise _wrapped(call, error, dialect, lost=True) from error
            pooled.close()
            raise _wrapped(call, error, dialect, lost=False) from error
        except BaseException:
            pooled.invalidate()  # an answer may be on its way still
            raise
        if len(self._at_hand) < _AT_HAND and self._engine.pool is pool:
            self._at_hand.append((pooled, pool, monotonic()))
        else:
            pooled.close()
        return row, changed

    def give_back(self) -> None:
        """Put the connections at hand into the pool that they came from."""
        with suppress(IndexError):
            while True:
                self._at_hand.pop()[0].close()

    def leave_to_parent(self) -> None:
        """Forget the connections, in a forked child: they are its parent's."""
        _of_parents.append(self._at_hand)
        self._at_hand = []

    def _take(self) -> PoolProxiedConnection:
        pool = self._engine.pool
        with suppress(IndexError):
            while True:
                pooled, of, used = self._at_hand.pop()
                if of is not pool:
                    pooled.invalidate()  # the engine was disposed of
                elif monotonic() - used < _STANDS:
                    return pooled
                else:
                    pooled.close()
        return pool.connect()


def _sessions() -> "Sessions":
    from .sqlalchemy_psycopg import Sessions

    return Sessions()


def _wrapped(call: Call | None, error: Exception, dialect: Any, *, lost: bool) -> DBAPIError:
    wrapped = DBAPIError.instance(
        None if call is None else call.sql,
        None,
        error,
        dialect.loaded_dbapi.Error,
        hide_parameters=True,
        connection_invalidated=lost,
        dialect=dialect,
    )
    assert isinstance(wrapped, DBAPIError)
    return wrapped

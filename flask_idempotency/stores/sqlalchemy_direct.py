"""Sends statements on the driver's own connections, out of SQLAlchemy's pool.

What SQLAlchemy does for each statement beyond that costs as much as the statement itself.
"""

import logging
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from .sqlalchemy_call import Call

if TYPE_CHECKING:
    from .sqlalchemy_psycopg import Sessions

_logger = logging.getLogger("sqlalchemy.engine")


class Direct:
    """The driver behind an engine that is at autocommit."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._psycopg = _sessions() if engine.dialect.driver == "psycopg" else None

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
        engine, pool = self._engine, self._engine.pool
        dialect: Any = engine.dialect
        try:
            pooled = pool.connect()
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
                if engine.pool is pool:
                    engine.dispose()  # what happened to one connection most likely happened to all
                raise _wrapped(call, error, dialect, lost=True) from error
            if self._psycopg is not None and self._psycopg.spoilt(driver, error):
                pooled.invalidate(error)
                raise _wrapped(call, error, dialect, lost=True) from error
            pooled.close()
            raise _wrapped(call, error, dialect, lost=False) from error
        except BaseException:
            pooled.invalidate()  # an answer may be on its way still
            raise
        pooled.close()
        return row, changed


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

"""Runs the store's statements on a database that may be slow, busy or gone."""

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ..engine.store import StoreUnavailable
from .watchdog import watchdog

T = TypeVar("T")

#: Seconds that a connection, a place in the pool, or a statement may take, on engines that are made here.
PATIENCE = 5

#: How often a statement is sent in all, where its first sending failed in a way that may pass.
_TRIES = 4

# Serialization failure and deadlock (PostgreSQL); lock wait time-out, deadlock, record changed (MariaDB, MySQL); BUSY
# and LOCKED (SQLite). Nothing was done, and it may be tried again.
_SQLSTATES = {"40001", "40P01", "55P03"}
_ERROR_NUMBERS = {1205, 1213, 1020}
_SQLITE_CODES = {5, 6}


def make_engine(url: str) -> Engine:
    """An engine whose requests do not hang, and that needs nothing of a session but the transaction it is in.

    So it works through poolers in transaction mode: no prepared statements, and the session's settings only make
    things faster or more patient.
    """
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "pool_pre_ping": False, "hide_parameters": True}
    if backend == "postgresql":
        options["connect_args"] = {"connect_timeout": PATIENCE}
        if parsed.get_driver_name() == "psycopg":
            options["connect_args"] |= {"prepare_threshold": None, "tcp_user_timeout": PATIENCE * 1000}
    elif backend in ("mysql", "mariadb"):
        options["connect_args"] = {"connect_timeout": PATIENCE, "read_timeout": PATIENCE, "write_timeout": PATIENCE}
    elif backend == "sqlite":
        options["connect_args"] = {"timeout": PATIENCE}
    if backend != "sqlite":
        options |= {"pool_timeout": PATIENCE, "pool_recycle": 1800}
    engine = create_engine(parsed, **options)
    if backend == "postgresql":
        event.listen(engine, "connect", _bound_statements)
    elif backend in ("mysql", "mariadb"):
        event.listen(engine, "connect", _read_committed)
    return engine


def _bound_statements(connection: Any, record: object) -> None:
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = {PATIENCE * 1000}")


def _read_committed(connection: Any, record: object) -> None:
    # Under REPEATABLE READ, an insert locks the gap beside it, and strangers deadlock.
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")


class Database:
    """One engine, and the patience with which it is asked."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # A transaction for each statement: no BEGIN and no COMMIT cross the network.
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")
        several = "SERIALIZABLE" if engine.dialect.name == "sqlite" else "READ COMMITTED"
        self._several = engine.execution_options(isolation_level=several)

    def ask(self, act: Callable[[Connection], T]) -> T:
        """Run one statement, which must recognise itself when it is sent again."""
        return self._patiently(lambda: self._run(self._single, act))

    def transact(self, act: Callable[[Connection], T]) -> T:
        """Run several statements in one transaction at READ COMMITTED."""
        return self._patiently(lambda: self._run(self._several, act))

    def _run(self, engine: Engine, act: Callable[[Connection], T]) -> T:
        with engine.connect() as connection, self._bound(connection), connection.begin():
            return act(connection)

    def _bound(self, connection: Connection) -> AbstractContextManager[None]:
        """Of the drivers, psycopg alone has no time-out for an answer."""
        if connection.dialect.driver != "psycopg":
            return nullcontext()
        driver = connection.connection.dbapi_connection
        assert driver is not None
        return watchdog.bound(driver.fileno(), PATIENCE)

    def _patiently(self, act: Callable[[], T]) -> T:
        started = time.monotonic()
        for left in reversed(range(_TRIES)):
            try:
                return act()
            except DBAPIError as error:
                late = time.monotonic() - started >= PATIENCE
                if late or not left or not (error.connection_invalidated or _may_pass(error)):
                    raise StoreUnavailable(self._say(error)) from error
            except PoolTimeout as error:
                raise StoreUnavailable(f"{self._name()}: no connection was free in time") from error
            except SQLAlchemyError as error:
                raise StoreUnavailable(f"{self._name()}: {type(error).__name__}") from error
            time.sleep(random.uniform(0, 0.02) * (_TRIES - left))
        raise AssertionError("the last try returns or raises")

    def _name(self) -> str:
        url = self.engine.url
        return f"{url.get_backend_name()} at {url.host or url.database or 'the default place'}"

    def _say(self, error: DBAPIError) -> str:
        # The driver's own text may hold parameters: only its kind and its code are told.
        driver = error.orig
        code = getattr(driver, "sqlstate", None) or (driver.args[0] if driver is not None and driver.args else None)
        told = f" ({code})" if isinstance(code, int) or (isinstance(code, str) and len(code) == 5) else ""
        return f"{self._name()}: {type(driver).__name__}{told}"


def _may_pass(error: DBAPIError) -> bool:
    driver = error.orig
    number = driver.args[0] if driver is not None and driver.args else None
    code = getattr(driver, "sqlite_errorcode", None)
    return (
        getattr(driver, "sqlstate", None) in _SQLSTATES
        or (isinstance(number, int) and number in _ERROR_NUMBERS)
        or (code is not None and code & 0xFF in _SQLITE_CODES)
    )

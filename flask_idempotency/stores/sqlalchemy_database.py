"""Runs the store's statements on a database that may be slow, busy or gone."""

import inspect
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from ..engine.store import StoreUnavailable
from .sql_conflicts import error_number, is_conflict
from .sqlalchemy_call import Call
from .sqlalchemy_direct import Direct
from .watchdog import watchdog

T = TypeVar("T")

#: Seconds that a connection, a place in the pool, or a statement may take, on engines that are made here.
PATIENCE = 5

#: The execution option that tells engines made here from those that were handed in.
_OURS = "flask_idempotency"

#: Seconds after which a connection is made anew, before firewalls forget it.
_RECYCLE = 1800

#: Seconds before the second and each later try of what failed in a way that may pass.
_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4)

# A server that takes no writes: a replica, which the one that was connected to became by a failover, perhaps.
_READ_ONLY_SQLSTATES = {"25006"}
_READ_ONLY_NUMBERS = {1290, 1792, 1836}


def make_engine(url: str) -> Engine:
    """An engine whose requests do not hang, and whose statements are a transaction and one round trip each.

    Raises `ValueError` for what is no URL, and `ImportError` where its driver is missing.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        options: dict[str, Any] = {
            "isolation_level": "AUTOCOMMIT",
            "hide_parameters": True,
            "execution_options": {_OURS: True},
        }
        # At autocommit, the ROLLBACK with which a connection goes back to the pool crosses the network for nothing: the
        # pool's own, and that of SQLAlchemy's `Connection` (since 2.0.43).
        options["pool_reset_on_return"] = None
        if "skip_autocommit_rollback" in inspect.signature(DefaultDialect.__init__).parameters:
            options["skip_autocommit_rollback"] = True
        if backend == "postgresql":
            options["connect_args"] = {"connect_timeout": PATIENCE}
            if parsed.get_driver_name() == "psycopg":
                # Through poolers in transaction mode, none is prepared and nothing is set; the watchdog takes the place
                # of `statement_timeout`.
                options["use_native_hstore"] = False  # asked for in a transaction: poolers in statement mode refuse it
                options["connect_args"] |= {"prepare_threshold": None, "tcp_user_timeout": PATIENCE * 1000}
        elif backend in ("mysql", "mariadb"):
            options["connect_args"] = {"connect_timeout": PATIENCE, "read_timeout": PATIENCE, "write_timeout": PATIENCE}
        elif backend == "sqlite":
            options["connect_args"] = {"timeout": PATIENCE}
        if backend != "sqlite":
            # The connection that was used last has its server's caches warm.
            options |= {"pool_timeout": PATIENCE, "pool_recycle": _RECYCLE, "pool_use_lifo": True}
        engine = create_engine(parsed, **options)
    except (ArgumentError, NoSuchModuleError):
        # Not their words: they may have the URL in them, and it a password.
        raise ValueError("SQLAlchemyStore needs a URL such as postgresql+psycopg://user@host/database.") from None
    except ModuleNotFoundError as error:
        raise ImportError(
            f"The driver {error.name} is missing. SQLAlchemyStore is tested with postgresql+psycopg:// (pip install "
            "'psycopg[binary]') and with mysql+pymysql:// and mariadb+pymysql:// (pip install PyMySQL)."
        ) from error
    if backend in ("mysql", "mariadb"):
        event.listen(engine, "connect", _read_committed)
    elif engine.dialect.driver == "psycopg":
        event.listen(engine, "connect", _look_whether_alone)
    return engine


def _read_committed(connection: Any, record: object) -> None:
    # Under REPEATABLE READ, an insert locks the gap beside it, and strangers deadlock.
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")


def _look_whether_alone(connection: Any, record: Any) -> None:
    from .sqlalchemy_psycopg import look_whether_alone

    with watchdog.bound(connection.fileno, PATIENCE):
        look_whether_alone(connection, record)


class Database:
    """One engine, and the patience with which it is asked."""

    def __init__(self, engine: Engine) -> None:
        if isinstance(engine.pool, StaticPool | SingletonThreadPool):
            raise ValueError(
                "SQLAlchemyStore needs connections of its own: a SQLite database in memory cannot give them. For "
                "records in memory there is MemoryStore."
            )
        self.engine = engine
        self._ours = engine.get_execution_options().get(_OURS, False)
        self._mysql = engine.dialect.name in ("mysql", "mariadb")
        self._sqlite = engine.dialect.name == "sqlite"
        self._direct = Direct(engine) if self._ours else None
        self._calls: dict[str, Call] = {}
        self._autocommit = engine if self._ours else engine.execution_options(isolation_level="AUTOCOMMIT")

    def run(self, statement: str, values: Mapping[str, Any]) -> tuple[Any, int]:
        """Run one statement like `ask`: the first row that it returns, if it returns any, and how many it changed."""
        call = self._call(statement)
        direct = self._direct
        if direct is not None and direct.is_open:
            return self._patiently(lambda: direct.run(call, values, patience=PATIENCE))
        return self._patiently(lambda: self._send(lambda connection: call.run(connection, values)))

    def run_together(self, statements: Sequence[str], values: Mapping[str, Any]) -> bool:
        """Run them in one transaction, unless the first changes nothing, or returns no row; whether it did."""
        if len(statements) == 1:
            row, changed = self.run(statements[0], values)
            return row is not None or changed > 0
        first, *others = map(self._call, statements)

        def act(connection: Connection) -> bool:
            _, changed = first.run(connection, values)
            if changed:
                for call in others:
                    call.run(connection, values)
            return changed > 0

        return self.transact(act)

    def ask(self, act: Callable[[Connection], T]) -> T:
        """Run one statement, which must recognise itself when it is sent again, in a transaction of its own."""
        return self._patiently(lambda: self._send(act))

    def transact(self, act: Callable[[Connection], T]) -> T:
        """Run several statements in one transaction at READ COMMITTED. Not for PostgreSQL: it needs but one."""
        return self._patiently(lambda: self._transact(act))

    def give_back(self) -> None:
        """Put what is kept of the engine's connections back into its pool."""
        if self._direct is not None:
            self._direct.give_back()

    def leave_to_parent(self) -> None:
        """Forget, in a forked child, what is kept of the engine's connections."""
        if self._direct is not None:
            self._direct.leave_to_parent()

    def _call(self, statement: str) -> Call:
        call = self._calls.get(statement)
        if call is None:
            call = self._calls[statement] = Call.of(statement, self.engine.dialect)
        return call

    def _send(self, act: Callable[[Connection], T]) -> T:
        self.give_back()  # this process shall hold no more connections than it uses at a time
        # No BEGIN and no COMMIT crosses the network. On an engine of MySQL that was handed in, switching to that and
        # back would cost more than it saves.
        return self._transact(act) if self._mysql and not self._ours else self._ask(act)

    def _ask(self, act: Callable[[Connection], T]) -> T:
        with self._autocommit.connect() as connection, self._bound(connection):
            try:
                result = act(connection)
            except DBAPIError as error:
                if self._ours and getattr(error.orig, "sqlstate", "") is None:
                    connection.invalidate()  # not the server said so: its answer may be on its way still
                raise
            if self._sqlite and not self._ours:
                connection.commit()  # what a listener of the application's has begun
            return result

    def _transact(self, act: Callable[[Connection], T]) -> T:
        self.give_back()
        if self._sqlite:
            return self._transact_on_sqlite(act)
        with self.engine.connect() as connection:
            if self._ours:
                return _begin_and_commit(connection, act)
            # For the next transaction only, so that nothing of it is left on the application's connection.
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            result = act(connection)
            connection.commit()
            return result

    def _transact_on_sqlite(self, act: Callable[[Connection], T]) -> T:
        with self._autocommit.connect() as connection:
            connection.begin()
            driver: Any = connection.connection.dbapi_connection
            if not driver.in_transaction:  # else a listener of the application's has begun it
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                result = act(connection)
                connection.commit()
            except BaseException:
                connection.invalidate()  # what was begun must not go back to the pool
                raise
            return result

    def _bound(self, connection: Connection) -> AbstractContextManager[None]:
        """Of the drivers, psycopg alone has no time-out for an answer."""
        if connection.dialect.driver != "psycopg":
            return nullcontext()
        driver: Any = connection.connection.dbapi_connection
        return watchdog.bound(driver.fileno, PATIENCE)

    def _patiently(self, act: Callable[[], T]) -> T:
        started = time.monotonic()
        for pause in (*_PAUSES, None):
            try:
                return act()
            except DBAPIError as error:
                # Where its words are logged, they must not have keys and bodies in them.
                error.hide_parameters = True
                late = time.monotonic() - started >= PATIENCE
                if _is_read_only(error):
                    self.give_back()
                    self.engine.dispose()  # the next connection may find the server that takes writes
                elif not _may_pass(error):
                    late = True
                if late or pause is None:
                    raise StoreUnavailable(self._say(error)) from error
            except PoolTimeout as error:
                raise StoreUnavailable(f"{self._name()}: no connection was free in time") from error
            except SQLAlchemyError as error:
                raise StoreUnavailable(f"{self._name()}: {type(error).__name__}") from error
            time.sleep(pause * random.uniform(0.5, 1.5))
        raise AssertionError("the last try returns or raises")

    def _name(self) -> str:
        url = self.engine.url
        return f"{url.get_backend_name()} at {url.host or url.database or 'the default place'}"

    def _say(self, error: DBAPIError) -> str:
        # The driver's own text may hold parameters: only its kind and its code are told.
        code = getattr(error.orig, "sqlstate", None) or error_number(error)
        return f"{self._name()}: {type(error.orig).__name__}" + (f" ({code})" if code else "")


def _begin_and_commit(connection: Connection, act: Callable[[Connection], T]) -> T:
    try:
        connection.exec_driver_sql("BEGIN")
        result = act(connection)
        connection.exec_driver_sql("COMMIT")
        return result
    except BaseException:
        connection.invalidate()  # what was begun must not go back to the pool
        raise


def _may_pass(error: DBAPIError) -> bool:
    """Whether the same call, sent again, may fare better."""
    return _was_lost(error) or is_conflict(error)


def _was_lost(error: DBAPIError) -> bool:
    """Whether the connection was lost, or never made."""
    return error.connection_invalidated or error.statement is None


def _is_read_only(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in _READ_ONLY_SQLSTATES or error_number(error) in _READ_ONLY_NUMBERS

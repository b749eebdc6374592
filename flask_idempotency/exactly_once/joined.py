"""Makes the sessions of one request join a transaction that is not theirs to commit."""

import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session

from ..stores.sql_conflicts import error_number
from .sqlite_transactions import begin_for_real

logger = logging.getLogger("flask_idempotency")

# Error numbers of deadlock and record changed. After these, MariaDB and MySQL have undone the whole transaction, with
# every savepoint in it: what is written next begins another. After a lock wait time-out, they have if they are set so.
_UNDOING_NUMBERS = {1213, 1020}
_LOCK_WAIT_TIMEOUT = 1205

# What the attribute `autocommit` of sqlite3's connections is, since Python 3.12, unless somebody asked for another way.
_LEGACY = getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", -1)

#: The transaction of the current request.
_current: ContextVar["OuterTransaction | None"] = ContextVar("flask_idempotency_outer_transaction", default=None)

Sessions = scoped_session[Any]


class OuterTransaction:
    """One connection and one transaction on it, which every session of the request joins until it ends.

    A session's `commit` releases a savepoint and its `rollback` goes back to one; only `commit` and `roll_back` here
    decide over the rows. A session that `remove()` threw away is followed by one that joins again.
    """

    def __init__(self, sessions: Sessions, engine: Engine) -> None:
        self._sessions = sessions
        self._engine = engine
        self._joined: list[tuple[Session, Any]] = []
        self._let_go: list[Session] = []
        self._isolation_level: Any = None
        self._options: Mapping[str, Any] | None = None
        self._left = False
        #: The error with which the database has undone everything so far, whatever the view made of it.
        self.undone_by: DBAPIError | None = None
        self._timed_out_by: DBAPIError | None = None
        #: From here on, a lost connection does not tell what stands.
        self.commit_sent = False

    def begin(self) -> None:
        """Open the transaction and let the request's sessions, which are in none, join it.

        Raises `RuntimeError` where the engine has no transactions.
        """
        _follow(self._sessions)
        _guard(self._engine)
        self.connection = self._engine.connect()
        try:
            self._turn_off_driver_transactions()
            self._transaction = self.connection.begin()
            begin_for_real(self.connection)
        except BaseException:
            self.connection.invalidate()
            self.connection.close()
            raise
        self._reset = _current.set(self)
        if self._sessions.registry.has():
            self.join(self._sessions())

    def find_out_undoing(self) -> None:
        """Set `undone_by` where a lock wait timed out earlier, and the server undoes everything then.

        A server may (`innodb_rollback_on_timeout`), and it is asked only where it matters. Does not raise.
        """
        if self._timed_out_by is None or self.undone_by is not None:
            return
        try:
            answer = self.connection.exec_driver_sql("SELECT @@innodb_rollback_on_timeout").scalar()
        except SQLAlchemyError:
            answer = True  # it cannot be asked: the end of the transaction will not be heard of otherwise
        if answer:
            self.undone_by = self._timed_out_by

    def leave(self) -> None:
        """Let the sessions go. What they have not committed is undone, as it would be without us.

        Where that fails for one of them, it raises, and can be called again for the rest.
        """
        self._left = True
        while self._joined:
            session, mode = self._joined.pop()
            try:
                session.rollback()
            finally:
                del session.get_bind
                session.join_transaction_mode = mode
                self._let_go.append(session)

    def commit(self) -> None:
        """Commit, after the sessions were let go."""
        self.commit_sent = True
        try:
            self._transaction.commit()
        except BaseException:
            self._forget_what_is_undone()
            raise
        finally:
            self._close()

    def roll_back(self) -> None:
        """Undo everything. Does not raise: where the database is lost, it undoes by itself."""
        try:
            self._leave_for_sure()
            self._forget_what_is_undone()
            if self._transaction.is_active:
                self._transaction.rollback()
            else:
                self.connection.invalidate()  # the view has ended it, and whatever has begun since is nobody's
        except SQLAlchemyError:
            self.connection.invalidate()
        finally:
            self._close()

    def join(self, session: Session) -> None:
        """Let `session` work on our connection wherever it would have worked on our engine."""
        if any(session is joined for joined, _ in self._joined):
            return
        choose = session.get_bind

        def get_bind(*args: Any, **kwargs: Any) -> Engine | Connection:
            return self._in_place_of(choose(*args, **kwargs))

        self._joined.append((session, session.join_transaction_mode))
        session.get_bind = get_bind  # type: ignore[method-assign]
        session.join_transaction_mode = "create_savepoint"

    def part_with(self, session: Session) -> bool:
        """Let go of a session that is in no transaction; whether it had joined."""
        for index, (joined, mode) in enumerate(self._joined):
            if joined is session:
                del self._joined[index]
                del session.get_bind
                session.join_transaction_mode = mode
                return True
        return False

    def _in_place_of(self, chosen: Engine | Connection) -> Engine | Connection:
        if not isinstance(chosen, Engine) or chosen.pool is not self._engine.pool:
            return chosen
        # Ours, maybe with options of the request's own, such as the schema of a tenant.
        options = chosen.get_execution_options()
        if self._options is None:
            ours = self.connection.get_execution_options()
            wanted = {"schema_translate_map": None} | options  # ours may be of another request's tenant
            self.connection.execution_options(
                **{name: value for name, value in wanted.items() if name not in ours or ours[name] != value}
            )
            self._options = options
        elif options != self._options:
            raise RuntimeError("The sessions of an atomic view share one connection, and so its execution options.")
        return self.connection

    def _leave_for_sure(self) -> None:
        for _ in range(len(self._joined) + 1):
            try:
                self.leave()
            except SQLAlchemyError:
                continue  # the database is lost
            except Exception:  # a listener of the application's
                logger.exception("A session could not be rolled back; its connection is.")
            else:
                return

    def _forget_what_is_undone(self) -> None:
        """Let the sessions load again what they hold.

        A session takes what it has committed for true, and with `expire_on_commit=False` would not look again: a rerun
        or an error handler would go on from rows that never were.
        """
        for session in self._let_go:
            session.expire_all()

    def _close(self) -> None:
        if _current.get() is self:
            _current.reset(self._reset)
        if self._isolation_level is not None and not self.connection.invalidated:
            driver = self.connection.connection.dbapi_connection
            assert driver is not None
            driver.isolation_level = self._isolation_level
        self.connection.close()

    def _turn_off_driver_transactions(self) -> None:
        driver = self.connection.connection.dbapi_connection
        assert driver is not None
        if self._engine.dialect.name == "sqlite":
            if getattr(driver, "autocommit", _LEGACY) != _LEGACY:
                raise RuntimeError(
                    "Atomic views need the transaction control that sqlite3 has by default: make the engine without "
                    "the argument autocommit."
                )
            # Else the driver would end our transaction before statements that it thinks need it.
            if driver.isolation_level is not None:
                self._isolation_level, driver.isolation_level = driver.isolation_level, None
        elif _commits_by_itself(driver):
            raise RuntimeError("Atomic views need an engine with transactions, and this one is at AUTOCOMMIT.")


@contextmanager
def apart(sessions: Sessions) -> Iterator[None]:
    """Take the session, which is in no transaction, out of the one around this, if there is one.

    An atomic view may ask another of its application, and Flask gives both requests one session. The inner transaction
    is another than the outer: it was answered for by itself, and stands whatever becomes of the outer.
    """
    outer = _current.get()
    session = sessions() if outer is not None and sessions.registry.has() else None
    if outer is None or session is None or not outer.part_with(session):
        yield
        return
    try:
        yield
    finally:
        outer.join(session)


class _FollowedRegistry:
    """A registry of sessions, all of which join the current transaction, however they came to be."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._registry = sessions.registry

    def __call__(self) -> Session:
        session: Session = self._registry()
        self._join(session)
        return session

    def set(self, session: Session) -> None:
        self._registry.set(session)
        self._join(session)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    def _join(self, session: Session) -> None:
        outer = _current.get()
        if outer is not None and not outer._left and outer._sessions is self._sessions:
            outer.join(session)


def _follow(sessions: Sessions) -> None:
    """See to it that sessions made later join, too. Once for each registry."""
    if not isinstance(sessions.registry, _FollowedRegistry):
        sessions.registry = _FollowedRegistry(sessions)  # type: ignore[assignment]


def _guard(engine: Engine) -> None:
    """See to it that a view that commits the connection itself, instead of the session, is stopped before it does.

    And that an error that has undone everything is not lost, where the view goes on after it.
    """
    if not event.contains(engine, "commit", _refuse_commit_of_view):
        event.listen(engine, "commit", _refuse_commit_of_view)
        event.listen(engine, "handle_error", _note_undoing)


def _refuse_commit_of_view(connection: Connection) -> None:
    outer = _current.get()
    if outer is not None and outer.connection is connection and not outer._left:  # ours comes after that
        raise RuntimeError("An atomic view must not commit its connection; its session may commit at any time.")


def _note_undoing(context: ExceptionContext) -> None:
    outer, error = _current.get(), context.sqlalchemy_exception
    if outer is None or outer.connection is not context.connection or context.dialect.name not in {"mysql", "mariadb"}:
        return
    if isinstance(error, DBAPIError):
        number = error_number(error)
        if number in _UNDOING_NUMBERS:
            outer.undone_by = error
        elif number == _LOCK_WAIT_TIMEOUT:
            outer._timed_out_by = error


def _commits_by_itself(driver: Any) -> bool:
    ask: Callable[[], object] | None = getattr(driver, "get_autocommit", None)
    return bool(ask() if ask else getattr(driver, "autocommit", False))

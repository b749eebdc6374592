"""Makes the sessions of one request join a transaction that is not theirs to commit."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session

from .sqlite_transactions import begin_for_real

#: The transaction that sessions of the current request join.
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
        self._isolation_level: Any = None

    def begin(self) -> None:
        """Open the transaction and let the request's sessions join it.

        What was left uncommitted in the request's session by earlier hooks is committed first: it is not the work of
        the view, and a transaction that has begun cannot become part of another.
        """
        _follow(self._sessions)
        if self._sessions.registry.has():
            self._sessions.commit()
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

    def leave(self) -> None:
        """Let the sessions go. What they have not committed is undone, as it would be without us."""
        _current.reset(self._reset)
        while self._joined:
            session, mode = self._joined.pop()
            try:
                session.rollback()
            finally:
                del session.get_bind
                session.join_transaction_mode = mode

    def commit(self) -> None:
        """Commit, after the sessions were let go."""
        try:
            self._transaction.commit()
        finally:
            self._close()

    def roll_back(self) -> None:
        """Undo everything. Does not raise: where the database is lost, it undoes by itself."""
        try:
            if _current.get() is self:
                self.leave()
            self._transaction.rollback()
        except SQLAlchemyError:
            self.connection.invalidate()
        finally:
            self._close()

    def join(self, session: Session) -> None:
        """Let `session` work on our connection wherever it would have worked on our engine."""
        choose = session.get_bind

        def get_bind(*args: Any, **kwargs: Any) -> Engine | Connection:
            chosen = choose(*args, **kwargs)
            return self.connection if chosen is self._engine else chosen

        self._joined.append((session, session.join_transaction_mode))
        session.get_bind = get_bind  # type: ignore[method-assign]
        session.join_transaction_mode = "create_savepoint"

    def _close(self) -> None:
        if self._isolation_level is not None and not self.connection.invalidated:
            driver = self.connection.connection.dbapi_connection
            assert driver is not None
            driver.isolation_level = self._isolation_level
        self.connection.close()

    def _turn_off_driver_transactions(self) -> None:
        # Else the driver would end our transaction before statements that it thinks need it.
        if self._engine.dialect.name == "sqlite":
            driver = self.connection.connection.dbapi_connection
            assert driver is not None
            if driver.isolation_level is not None:
                self._isolation_level, driver.isolation_level = driver.isolation_level, None


def _follow(sessions: Sessions) -> None:
    """See to it that sessions made later join, too. Once for each registry."""
    registry = sessions.registry
    make: Callable[..., Session] = registry.createfunc
    if getattr(make, "joins", False):
        return

    def make_joined(*args: Any, **kwargs: Any) -> Session:
        session = make(*args, **kwargs)
        outer = _current.get()
        if outer is not None and outer._sessions is sessions:
            outer.join(session)
        return session

    make_joined.joins = True  # type: ignore[attr-defined]
    registry.createfunc = make_joined

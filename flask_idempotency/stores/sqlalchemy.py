"""Records in a SQL database: PostgreSQL, MariaDB, MySQL or SQLite, through SQLAlchemy."""

import os
import secrets
import threading
import weakref
from collections.abc import Iterable
from typing import Any, Self

from ..engine import clock
from ..engine.records import Claim, Claimed, Completed, InProgress, RecordKey, StoredResponse
from ..engine.store import StoreUnavailable

try:
    from sqlalchemy import (
        Column,
        Connection,
        Double,
        Engine,
        Integer,
        LargeBinary,
        MetaData,
        Table,
        bindparam,
        delete,
        text,
    )
    from sqlalchemy.dialects import mysql
    from sqlalchemy.exc import DBAPIError
except ImportError as error:
    raise ImportError("SQLAlchemyStore needs SQLAlchemy: pip install 'flask-idempotency[sqlalchemy]'") from error

from .sqlalchemy_database import Database, make_engine
from .sqlalchemy_dialects import Statements, statements_for

TABLE_NAME = "idempotency_records"

#: How many claims whose replies never came are remembered. Those beyond lapse by themselves.
_UNHEARD_KEPT = 1000


def record_table(metadata: MetaData) -> Table:
    """The table of records. In the application's metadata, so that its migrations see it."""
    if TABLE_NAME in metadata.tables:
        return metadata.tables[TABLE_NAME]

    def digest(size: int) -> Any:
        return LargeBinary(size).with_variant(mysql.VARBINARY(size), "mysql", "mariadb")

    return Table(
        TABLE_NAME,
        metadata,
        Column("id", digest(32), primary_key=True),
        Column("fingerprint", digest(64), nullable=False),
        Column("token", digest(16), nullable=False),
        Column("number", Integer, nullable=False),
        Column("lease_ends", Double),  # epoch seconds; NULL once completed
        Column("expires_at", Double, nullable=False, index=True),  # epoch seconds; never before lease_ends
        Column("response", LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")),
    )


class SQLAlchemyStore:
    """Records in the database behind `database`: a URL, an `Engine`, or Flask-SQLAlchemy's `db`.

    The database's clock decides about leases and retention (on SQLite, this host's). The table joins the metadata of
    `db`, or `metadata`, where migrations see it; with `create`, it is made on first use where it is missing.

    An engine that is handed in keeps its own time-outs; those made from a URL wait five seconds at most for a
    connection or a statement.
    """

    def __init__(self, database: Any, *, metadata: MetaData | None = None, create: bool = True) -> None:
        self._given = database
        self._create = create
        own = getattr(database, "metadata", None)
        self.table = record_table(metadata or (own if isinstance(own, MetaData) else MetaData()))
        self._unheard: dict[bytes, Claim] = {}
        self._opening = threading.Lock()
        self._database: Database | None = None
        self._statements: Statements | None = None
        if hasattr(os, "register_at_fork"):
            me = weakref.ref(self)

            def leave_to_parent() -> None:
                if store := me():
                    store._leave_to_parent()

            os.register_at_fork(after_in_child=leave_to_parent)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The store behind one of SQLAlchemy's URLs; nothing is connected to before its first use."""
        return cls(url)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.table.name}>"

    def claim(
        self, record: RecordKey, fingerprint: bytes, *, lease: float, retention: float, take_over: bool = True
    ) -> Claimed | InProgress | Completed:
        """See `Store.claim`."""
        database, statements = self._ready()
        # The claim of an earlier try, whose reply never came, recognises itself like that of this one.
        claim = self._unheard.pop(record.id, None) or Claim(record.id, secrets.token_bytes(16))
        values = {
            "id": record.id,
            "fingerprint": fingerprint,
            "token": claim.token,
            "lease": lease,
            "longest": max(lease, retention),
            "take_over": take_over,
        }
        try:
            while True:
                found = self._one(database, statements.claim, **values)
                if found is None:
                    found = self._one(database, statements.find, id=record.id)
                if found is None:
                    continue  # it went since
                if bytes(found.token) == claim.token:
                    return Claimed(claim, lapsed=found.number > 1, number=found.number)
                standing = _read(found)
                if not _lapsed_since(standing, fingerprint, take_over):
                    return standing
        except StoreUnavailable:
            if len(self._unheard) < _UNHEARD_KEPT:
                self._unheard[record.id] = claim
            raise

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """See `Store.complete`."""
        database, _ = self._ready()
        return database.ask(lambda connection: self.complete_on(connection, claim, response, retention=retention))

    def complete_on(
        self, connection: Connection, claim: Claim, response: StoredResponse | None, *, retention: float
    ) -> bool:
        """`complete` as a part of the caller's own transaction on `connection`."""
        statement = text(self._statements_on(connection).complete).bindparams(bindparam("response", type_=LargeBinary))
        values = {
            "id": claim.record_id,
            "token": claim.token,
            "retention": retention,
            "response": response and response.pack(),
        }
        return connection.execute(statement, self._with_clock(values)).rowcount == 1

    def release(self, claim: Claim) -> bool:
        """See `Store.release`."""
        database, statements = self._ready()
        tries: list[None] = []

        def release(connection: Connection) -> bool:
            tries.append(None)
            values = self._with_clock({"id": claim.record_id, "token": claim.token})
            if connection.execute(text(statements.release), values).rowcount == 1:
                return True
            # Sent again since its reply was lost, it finds what it did itself: the record is gone.
            gone = connection.execute(text(statements.find), self._with_clock({"id": claim.record_id})).first() is None
            return len(tries) > 1 and gone

        return database.ask(release)

    def renew(self, claims: Iterable[Claim], *, lease: float) -> None:
        """See `Store.renew`."""
        # In the order of the ids, in which every process takes the rows: so they do not deadlock.
        values = [
            self._with_clock({"id": claim.record_id, "token": claim.token, "lease": lease})
            for claim in sorted(claims, key=lambda claim: claim.record_id)
        ]
        if values:
            database, statements = self._ready()
            database.transact(lambda connection: connection.execute(text(statements.renew), values))

    def purge(self, *, limit: int) -> int:
        """See `Store.purge`."""
        database, statements = self._ready()

        def purge(connection: Connection) -> int:
            ids = connection.execute(text(statements.over), self._with_clock({"limit": limit})).scalars().all()
            if ids:
                connection.execute(delete(self.table).where(self.table.c.id.in_(ids)))
            return len(ids)

        return database.transact(purge)

    def close(self) -> None:
        """See `Store.close`. An engine that was handed in is left to its owner."""
        with self._opening:
            if self._database is not None and isinstance(self._given, str):
                self._database.engine.dispose()
            self._database = None

    def _leave_to_parent(self) -> None:
        # The connections are the parent's: the child forgets them, and must not say goodbye on them.
        if self._database is not None:
            self._database.engine.dispose(close=False)
        self._opening = threading.Lock()
        self._database = self._statements = None

    def _ready(self) -> tuple[Database, Statements]:
        with self._opening:
            if self._database is None:
                database = Database(self._open())
                self._statements = statements_for(
                    database.engine.dialect.name,
                    database.engine.dialect.identifier_preparer.format_table(self.table),
                    returning=self._can_return(database),
                )
                if self._create:
                    self._make_table(database)
                self._database = database
            assert self._statements is not None
            return self._database, self._statements

    def _open(self) -> Engine:
        if isinstance(self._given, str):
            return make_engine(self._given)
        # Flask-SQLAlchemy's `db` knows its engine within an application context: that of the first request.
        engine = self._given if isinstance(self._given, Engine) else self._given.engine
        assert isinstance(engine, Engine)
        return engine

    def _can_return(self, database: Database) -> bool:
        if database.engine.dialect.name not in ("mysql", "mariadb"):
            return True
        # Asked of the server: only a connection tells MariaDB from MySQL.
        database.ask(lambda connection: None)
        return bool(getattr(database.engine.dialect, "is_mariadb", False))

    def _make_table(self, database: Database) -> None:
        def make(connection: Connection) -> None:
            try:
                self.table.create(connection, checkfirst=True)
            except DBAPIError:
                # Another process made it in the same moment; else this raises again.
                self.table.create(connection, checkfirst=True)

        database.ask(make)

    def _statements_on(self, connection: Connection) -> Statements:
        if self._statements is None:
            self._ready()
        assert self._statements is not None
        return self._statements

    def _one(self, database: Database, statement: str, **values: Any) -> Any:
        def ask(connection: Connection) -> Any:
            result = connection.execute(text(statement), self._with_clock(values))
            return result.first() if result.returns_rows else None

        return database.ask(ask)

    def _with_clock(self, values: dict[str, Any]) -> dict[str, Any]:
        if self._statements is not None and self._statements.own_clock:
            values["now"] = clock.now()
        return values


def _read(found: Any) -> InProgress | Completed:
    fingerprint = bytes(found.fingerprint)
    if found.lease_ends is None:
        return Completed(fingerprint, _unpack(found.response))
    left = found.lease_ends - found.now
    return InProgress(fingerprint, clock.now() + left, lapsed=left <= 0)


def _lapsed_since(standing: InProgress | Completed, fingerprint: bytes, take_over: bool) -> bool:
    """Whether the lease ended between the claim and the look at what stood in its way: then it is claimed again."""
    return isinstance(standing, InProgress) and standing.lapsed and take_over and standing.fingerprint == fingerprint


def _unpack(response: bytes | None) -> StoredResponse | None:
    if response is None:
        return None
    try:
        return StoredResponse.unpack(bytes(response))
    except ValueError as error:
        raise StoreUnavailable("a kept response cannot be read") from error

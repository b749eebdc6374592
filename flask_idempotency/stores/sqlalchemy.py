"""Records in a SQL database: PostgreSQL, MariaDB, MySQL or SQLite, through SQLAlchemy."""

import secrets
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Self

from ..engine import clock
from ..engine.forks import call_in_child
from ..engine.process_lock import ProcessLock
from ..engine.records import Claim, Claimed, Completed, InProgress, RecordKey, StoredResponse
from ..engine.store import StoreUnavailable, kept_response

try:
    from sqlalchemy import (
        BindParameter,
        Column,
        Connection,
        Double,
        Engine,
        Integer,
        LargeBinary,
        MetaData,
        Table,
        TextClause,
        bindparam,
        text,
    )
    from sqlalchemy.dialects import mysql
    from sqlalchemy.exc import DBAPIError
except ImportError as error:
    raise ImportError("SQLAlchemyStore needs SQLAlchemy: pip install 'flask-idempotency[sqlalchemy]'") from error

from .sqlalchemy_database import PATIENCE, Answer, Database, make_engine
from .sqlalchemy_dialects import Statements, statements_for
from .sqlalchemy_unsynced import UnsyncedClaims
from .unheard import UnheardClaims

TABLE_NAME = "idempotency_records"

#: How many claims are renewed by one statement: SQLite takes no more than 999 parameters in old versions.
_AT_ONCE = 400

_LIST_OF_IDS: BindParameter[Any] = bindparam("ids", expanding=True)


def record_table(metadata: MetaData) -> Table:
    """The table of records. In the application's metadata, so that its migrations see it."""

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
        keep_existing=True,
    )


class SQLAlchemyStore:
    """Records in the database behind `database`: a URL, an `Engine`, or Flask-SQLAlchemy's `db`.

    The database's clock decides about leases and retention (on SQLite, this host's, which is SQLite's own).

    The table joins the metadata of `db`, or `metadata`, so that Flask-Migrate and Alembic see it. With `create`, the
    store makes it on first use where it is missing, so that a new application works before its first migration; where
    the database's user may not, or only migrations should, say `create=False`.

    Engines made from a URL wait five seconds at most for a connection or an answer, and need nothing of a session, so
    that poolers in transaction mode serve (PgBouncer). Where there is none, psycopg's statements are prepared on
    PostgreSQL: a session is known to be nobody else's by its process id. Such an engine is the fastest, since no more
    of SQLAlchemy than its pool takes part, unless somebody listens to its events or reads its log.

    One that is handed in keeps its own time-outs; those of MariaDB and MySQL have none unless `connect_args` sets
    `read_timeout`. Purging needs MariaDB 10.6 or MySQL 8.0.

    On PostgreSQL, a claim waits for the disk only with `on_lapse="refuse"`; a completion always does. So a crash of the
    server (not one of the application) may take with it the claims of its last 0.6 s. What ran under them is completed
    nevertheless. But a client that asks again after such a crash, before the first run has ended, is not known from a
    new one: where that must not be, say `on_lapse="refuse"`.

    A database that fails over to an asynchronous replica may lose the newest claims and completions, as it may lose the
    application's own rows.
    """

    def __init__(self, database: Any, *, metadata: MetaData | None = None, create: bool = True) -> None:
        self._given = database
        self._create = create
        own = getattr(database, "metadata", None)
        if metadata is None:
            metadata = own if isinstance(own, MetaData) else MetaData()
        self.table = record_table(metadata)
        self._made = make_engine(database) if isinstance(database, str) else None
        self._engine = self._made or (database if isinstance(database, Engine) else None)
        if self._engine is not None:
            statements_for(self._engine.dialect.name, TABLE_NAME, returning=True)  # refuses what it does not know
        self._unheard = UnheardClaims()
        self._unsynced = UnsyncedClaims()
        self._opening = ProcessLock()
        self._ready_to_ask: tuple[Database, Statements] | None = None
        call_in_child(self._leave_to_parent)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The store behind one of SQLAlchemy's URLs; nothing is connected to before its first use.

        Raises `ValueError` for what is no such URL, and `ImportError` where its driver is missing.
        """
        return cls(url)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.table.name}>"

    def claim(
        self, record: RecordKey, fingerprint: bytes, *, lease: float, retention: float, take_over: bool = True
    ) -> Claimed | InProgress | Completed:
        """See `Store.claim`."""
        database, statements = self._ready()
        # The claim of an earlier try, whose reply never came, recognises itself like that of this one.
        claim = self._unheard.take(record.id) or Claim(record.id, secrets.token_bytes(16))
        unsynced = statements.claim_unsynced if take_over else None
        asked = time.monotonic()
        values = {
            "id": record.id,
            "fingerprint": fingerprint,
            "token": claim.token,
            "lease": float(lease),
            "longest": float(max(lease, retention)),
            "take_over": take_over,
        }
        try:
            while time.monotonic() - asked < PATIENCE:
                found = self._run(database, unsynced or statements.claim, values).row
                if found is None:
                    found = self._run(database, statements.find, {"id": record.id}).row
                if found is None:
                    continue  # it went since
                token, of, number, lease_ends, response, now = found
                if bytes(token) == claim.token and lease_ends is not None:
                    if unsynced is not None:
                        self._unsynced.remember(claim, fingerprint, number, asked=asked, lease=lease)
                    return Claimed(claim, lapsed=number > 1, number=number)
                if lease_ends is None:
                    return Completed(bytes(of), kept_response(response and bytes(response)))
                left = lease_ends - now
                if left <= 0 and take_over and bytes(of) == fingerprint:
                    continue  # it lapsed between the claim and the look at what stood in its way
                return InProgress(bytes(of), clock.now() + left, lapsed=left <= 0)
            # What is written cannot be read: a trigger undoes it, or a proxy asks a replica that is behind.
            raise StoreUnavailable("the database shows no record and takes none")
        except BaseException:  # gevent's time-outs and signals interrupt it, too
            self._unheard.remember(claim)
            raise

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """See `Store.complete`."""
        database, statements = self._ready()
        values = _completion(claim, response, retention)
        done = self._run(database, statements.complete, values).changed == 1
        if not done and statements.restore is not None:
            lost = self._unsynced.lost(claim, trouble=database.trouble)
            if lost is not None:
                values |= {"fingerprint": lost.fingerprint, "number": lost.number}
                done = self._run(database, statements.restore, values).changed == 1
        self._unsynced.forget(claim)
        return done

    def complete_on(
        self, connection: Connection, claim: Claim, response: StoredResponse | None, *, retention: float
    ) -> bool:
        """`complete` as a part of the caller's own transaction on `connection`."""
        _, statements = self._ready()
        statement = text(statements.complete).bindparams(bindparam("response", type_=LargeBinary))
        done = self._execute(statement, _completion(claim, response, retention), connection) == 1
        # Where the claim was lost, nothing is: the caller's transaction is undone, and the request runs again.
        self._unsynced.forget(claim)
        return done

    def release(self, claim: Claim) -> bool:
        """See `Store.release`."""
        database, statements = self._ready()
        self._unsynced.forget(claim)
        released = self._run(database, statements.release, {"id": claim.record_id, "token": claim.token})
        if released.changed == 1 or released.tries == 1:
            return released.changed == 1
        # Sent again since its reply was lost, it finds what it did itself: the record is gone.
        return self._run(database, statements.find, {"id": claim.record_id}).row is None

    def renew(self, claims: Iterable[Claim], *, lease: float) -> None:
        """See `Store.renew`."""
        held = list(claims)
        if held or self._unheard:
            database, statements = self._ready()
            renew = text(statements.renew).bindparams(_LIST_OF_IDS, bindparam("tokens", expanding=True))
            asked = time.monotonic()
            for start in range(0, len(held), _AT_ONCE):
                some = held[start : start + _AT_ONCE]
                values = {
                    "ids": [claim.record_id for claim in some],
                    "tokens": [claim.token for claim in some],
                    "lease": lease,
                }
                database.ask(partial(self._execute, renew, values))
            self._unsynced.prolong(held, asked=asked, lease=lease)
            self._give_back_unheard()

    def purge(self, *, limit: int) -> int:
        """See `Store.purge`."""
        database, statements = self._ready()
        values = {"limit": limit}
        if statements.over is None:
            return self._run(database, statements.purge, values).changed
        over, delete = text(statements.over), text(statements.purge).bindparams(_LIST_OF_IDS)

        def purge(connection: Connection) -> int:
            ids = connection.execute(over, self._with_clock(values)).scalars().all()
            return self._execute(delete, {"ids": ids}, connection) if ids else 0

        return database.transact(purge)

    def close(self) -> None:
        """See `Store.close`. An engine that was handed in is left to its owner."""
        with self._opening:
            self._ready_to_ask = None
            if self._made is not None:
                self._made.dispose()

    def _give_back_unheard(self) -> None:
        """Nobody runs under these: given back, they do not keep their keys until their lease ends."""
        while (claim := self._unheard.take_any()) is not None:
            try:
                self.release(claim)
            except StoreUnavailable:
                self._unheard.remember(claim)
                raise

    def _leave_to_parent(self) -> None:
        # The connections are the parent's: the child forgets them, and must not say goodbye on them.
        self._unsynced = UnsyncedClaims()
        self._ready_to_ask = None
        if self._engine is not None:
            self._engine.dispose(close=False)

    def _ready(self) -> tuple[Database, Statements]:
        if self._ready_to_ask is not None:
            return self._ready_to_ask
        # One thread makes the table. Where the database is silent, those behind it do not wait for one another.
        opening = self._opening.mine()
        if not opening.acquire(timeout=PATIENCE):
            raise StoreUnavailable("the database has not answered in time")
        try:
            if self._ready_to_ask is None:
                self._ready_to_ask = self._open()
            return self._ready_to_ask
        finally:
            opening.release()

    def _open(self) -> tuple[Database, Statements]:
        if self._engine is None:
            # Flask-SQLAlchemy's `db` knows its engine within an application context: that of the first request.
            # Kept from then on: the heartbeat has no such context.
            self._engine = self._given.engine
            assert isinstance(self._engine, Engine)
        engine = self._engine
        database = Database(engine)
        if engine.dialect.name in ("mysql", "mariadb"):
            database.ask(lambda connection: None)  # only a connection tells MariaDB from MySQL
        returning = engine.dialect.insert_returning
        table = engine.dialect.identifier_preparer.format_table(self.table)
        statements = statements_for(engine.dialect.name, table, returning=returning)
        self._own_clock = statements.own_clock
        if self._create:
            self._make_table(database)
        return database, statements

    def _make_table(self, database: Database) -> None:
        def make(connection: Connection) -> None:
            try:
                self.table.create(connection, checkfirst=True)
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise  # on another connection, it is tried again
                # Another process made it in the same moment; else this raises again.
                self.table.create(connection, checkfirst=True)

        database.ask(make)

    def _run(self, database: Database, statement: str, values: dict[str, Any]) -> Answer:
        return database.run(statement, self._with_clock(values))

    def _execute(self, statement: TextClause, values: dict[str, Any], connection: Connection) -> int:
        """How many rows it changed."""
        return connection.execute(statement, self._with_clock(values)).rowcount

    def _with_clock(self, values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "now": clock.now()} if self._own_clock else values


def _completion(claim: Claim, response: StoredResponse | None, retention: float) -> dict[str, Any]:
    return {
        "id": claim.record_id,
        "token": claim.token,
        "retention": float(retention),
        "response": response and response.pack(),
    }

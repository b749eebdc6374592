"""Records in a SQL database: PostgreSQL, MariaDB, MySQL or SQLite, through SQLAlchemy."""

import time
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Self

from ..engine import clock
from ..engine.forks import call_in_child
from ..engine.process_lock import ProcessLock
from ..engine.records import Claim, Claimed, Completed, InProgress, Lapsed, RecordKey, Standing, StoredResponse
from ..engine.store import StoreUnavailable, kept_response

try:
    from sqlalchemy import BindParameter, Connection, Engine, MetaData, TextClause, bindparam, text
except ImportError as error:
    raise ImportError("SQLAlchemyStore needs SQLAlchemy: pip install 'flask-idempotency[sqlalchemy]'") from error

from .sqlalchemy_database import PATIENCE, Database, make_engine
from .sqlalchemy_dialects import Statements, statements_for
from .sqlalchemy_tables import RECORDS, STEPS, check_layout, legible, make_table, record_table, step_table
from .tokens import new_token
from .unheard import UnheardClaims

#: How many claims are renewed by one statement: SQLite takes no more than 999 parameters in old versions.
_AT_ONCE = 400

_LIST_OF_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_LIST_OF_TOKENS: BindParameter[Any] = bindparam("tokens", expanding=True)

#: Of the steps of a record, the most that has become of one.
_NONE, _BEGAN, _KEPT = range(3)


class SQLAlchemyStore:
    """Records in the database behind `database`: a URL, an `Engine`, or Flask-SQLAlchemy's `db`.

    The database's clock decides about leases and retention (on SQLite, this host's, which is SQLite's own).

    Its two tables join the metadata of `db`, or `metadata`, so that Flask-Migrate and Alembic see them. With `create`,
    the store makes them on first use where they are missing, so that a new application works before its first
    migration; where the database's user may not, or only migrations should, say `create=False`. Tables of another
    version are refused, and stay as they are.

    Engines made from a URL wait five seconds at most for a connection or an answer, and need nothing of a session, so
    that poolers in transaction mode serve (PgBouncer). Where there is none, psycopg's statements are prepared on
    PostgreSQL: a session is known to be nobody else's by its process id. Such an engine is the fastest, since no more
    of SQLAlchemy than its pool takes part, unless somebody listens to its events or reads its log.

    One that is handed in keeps its own time-outs; those of MariaDB and MySQL have none unless `connect_args` sets
    `read_timeout`. Purging needs MariaDB 10.6 or MySQL 8.0.

    What is written waits for the disk where the server is set to it (`synchronous_commit`,
    `innodb_flush_log_at_trx_commit`); on PostgreSQL, a first claim only with `durable_claims` or `on_lapse="refuse"`.
    So a crash of the server (not one of the application) may take with it the first claims of its last 0.6 s. What ran
    under them is completed nevertheless. But a client that asks again after such a crash, before the first run has
    ended, is not known from a new one: where that must not be, say `durable_claims`.

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
        self.step_table = step_table(metadata)
        self._made = make_engine(database) if isinstance(database, str) else None
        self._engine = self._made or (database if isinstance(database, Engine) else None)
        if self._engine is not None:
            statements_for(self._engine.dialect.name, RECORDS, STEPS, returning=True)  # refuses what it does not know
        self._unheard = UnheardClaims()
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

    @property
    def sqlite_path(self) -> str | None:
        """The SQLite file that the records are in, once it is known: it has one writer. None elsewhere."""
        engine = self._engine
        return engine.url.database if engine is not None and engine.dialect.name == "sqlite" else None

    def claim(
        self,
        record: RecordKey,
        fingerprint: bytes,
        *,
        lease: float,
        retention: float,
        take_over: bool,
        durable: bool,
    ) -> Standing:
        """See `Store.claim`."""
        # The claim of an earlier try, whose reply never came, recognises itself like that of this one.
        unheard = self._unheard.take(record.id) if self._unheard else None
        if unheard is not None and unheard.fingerprint != fingerprint:
            self._undo(unheard, retention)
            unheard = None
        claim = unheard or Claim(record, fingerprint, new_token())
        values = _named(claim)
        values["lease"] = float(lease)
        values["retention"] = float(retention)
        values["longest"] = float(max(lease, retention)) if take_over else None
        values["take_over"] = take_over
        try:
            return self._claim(claim, values, durable=durable, made_before=unheard is not None)
        except BaseException:  # gevent's time-outs and signals interrupt it, too
            self._unheard.remember(claim, retention)
            raise

    def _claim(self, claim: Claim, values: dict[str, Any], *, durable: bool, made_before: bool) -> Standing:
        """`made_before`: the claim may stand since some time ago, and its lease begins now."""
        database, statements = self._ready()
        statement = statements.claim if durable else statements.claim_unsynced or statements.claim
        asked = time.monotonic()
        while True:
            found = self._run(database, statement, values)[0] or self._run(database, statements.find, values)[0]
            if found is not None:
                says, of, number, lapsed, age, left, response = found
                if says == "completed":
                    return Completed(bytes(of), kept_response(response and bytes(response)))
                if says == "mine" and not made_before:
                    return Claimed(claim, number, bool(lapsed))
                if says in ("running", "answering") and left > 0:
                    now = clock.now()
                    return InProgress(bytes(of), now - age, now + left)
                if says == "answering":
                    return Completed(bytes(of), None)
                same = of is None or bytes(of) == claim.fingerprint
                if says == "abandoned" or (says == "stepped" and not same):
                    return Lapsed(bytes(of))
                if says == "running" and not (same and values["take_over"]):
                    return Lapsed(bytes(of))
                if says == "over":
                    database.run_together(statements.forget, self._with_clock(values))
                else:
                    self._run(database, statements.take, values)
                    made_before = False
            # It was free, or has gone since it was looked at.
            if time.monotonic() - asked >= PATIENCE:
                # What is written cannot be read: a trigger undoes it, or a proxy asks a replica that is behind.
                raise StoreUnavailable("the database shows no record and takes none")

    def answering(self, claim: Claim, *, lease: float) -> bool:
        """See `Store.answering`."""
        statements = self._ready()[1]
        return self._write(statements.answer, claim, "answering", lease=float(lease))

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """See `Store.complete`."""
        statements = self._ready()[1]
        packed = None if response is None else response.pack()
        return self._write(statements.complete, claim, "completed", retention=float(retention), response=packed)

    def release(self, claim: Claim, *, retention: float) -> bool:
        """See `Store.release`."""
        database, statements = self._ready()
        values = {"id": claim.record.id, "token": claim.token, "retention": float(retention)}
        if self._run(database, statements.release, values)[1] == 1:
            return True
        found = self._run(database, statements.find, values)[0]
        return found is None or found[0] == "over"

    def abandon(self, claim: Claim) -> bool:
        """See `Store.abandon`."""
        return self._write(self._ready()[1].abandon, claim, "abandoned")

    def resolve(self, record_id: bytes, *, done: bool, retention: float) -> bool:
        """See `Store.resolve`."""
        database, statements = self._ready()
        token = new_token()
        values = {"id": record_id, "token": token, "done": done, "retention": float(retention)}
        return database.run_together(statements.resolve, self._with_clock(values))

    def renew(self, claims: Collection[Claim], *, lease: float) -> set[Claim]:
        """See `Store.renew`."""
        fenced: set[Claim] = set()
        held = list(claims)
        if held or self._unheard:
            database, statements = self._ready()
            for start in range(0, len(held), _AT_ONCE):
                fenced |= self._renew(database, statements, held[start : start + _AT_ONCE], lease)
            self._undo_unheard()
        return fenced

    def load_steps(self, claim: Claim) -> Mapping[str, bytes | None]:
        """See `Store.load_steps`."""
        database, statements = self._ready()
        found = database.ask(
            lambda connection: connection.execute(text(statements.load_steps), {"id": claim.record.id}).all()
        )
        return {bytes(name).decode(): result if result is None else bytes(result) for name, result in found}

    def keep_step(self, claim: Claim, name: str, result: bytes | None, *, retention: float) -> bool:
        """See `Store.keep_step`."""
        database, statements = self._ready()
        values = _step(claim, name) | {
            "result": result,
            "kept": _BEGAN if result is None else _KEPT,
            "retention": float(retention),
        }
        return database.run_together(statements.keep_step, self._with_clock(values))

    def drop_step(self, claim: Claim, name: str) -> bool:
        """See `Store.drop_step`."""
        database, statements = self._ready()
        values = _step(claim, name) | {"kept": _NONE, "retention": 0.0}
        return database.run_together(statements.drop_step, self._with_clock(values))

    def purge(self, *, limit: int) -> int:
        """See `Store.purge`."""
        database, statements = self._ready()
        values = {"limit": limit}
        if statements.over is None:
            return int(self._run(database, statements.purge[0], values)[0][0])
        over = text(statements.over)
        records, steps = (text(purge).bindparams(_LIST_OF_IDS) for purge in statements.purge)

        def purge(connection: Connection) -> int:
            ids = connection.execute(over, self._with_clock(values)).scalars().all()
            if not ids:
                return 0
            purged = self._execute(records, {"ids": ids}, connection)
            connection.execute(steps, {"ids": ids})
            return purged

        return database.transact(purge)

    def close(self) -> None:
        """See `Store.close`. An engine that was handed in is left to its owner."""
        with self._opening:
            if self._ready_to_ask is not None:
                self._ready_to_ask[0].give_back()
                self._ready_to_ask = None
            if self._made is not None:
                self._made.dispose()

    def _renew(self, database: Database, statements: Statements, held: list[Claim], lease: float) -> set[Claim]:
        values = {
            "ids": [claim.record.id for claim in held],
            "tokens": [claim.token for claim in held],
            "lease": float(lease),
        }
        renew = text(statements.renew).bindparams(_LIST_OF_IDS, _LIST_OF_TOKENS)
        if database.ask(partial(self._execute, renew, values)) == len(held):
            return set()
        look = text(statements.holders).bindparams(_LIST_OF_IDS)
        found = database.ask(lambda connection: connection.execute(look, self._with_clock(values)).all())
        holders = {bytes(record_id): bytes(token) for record_id, token in found}
        return {claim for claim in held if holders.get(claim.record.id, claim.token) != claim.token}

    def _undo_unheard(self) -> None:
        """Nobody runs under these: undone, they do not keep their keys until their lease ends."""
        while (unheard := self._unheard.take_any()) is not None:
            self._undo(*unheard)

    def _undo(self, claim: Claim, retention: float) -> None:
        try:
            database, statements = self._ready()
            values: dict[str, Any] = {"id": claim.record.id, "token": claim.token}
            if self._run(database, statements.undo_first, values)[1] == 0:
                values |= {"nobody": new_token(), "retention": float(retention)}
                self._run(database, statements.undo, values)
        except BaseException:
            self._unheard.remember(claim, retention)
            raise

    def _leave_to_parent(self) -> None:
        # The connections are the parent's: the child forgets them, and must not say goodbye on them.
        if self._ready_to_ask is not None:
            self._ready_to_ask[0].leave_to_parent()
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
        name_of = engine.dialect.identifier_preparer.format_table
        statements = statements_for(
            engine.dialect.name, name_of(self.table), name_of(self.step_table), returning=returning
        )
        self._own_clock = statements.own_clock
        for table in (self.table, self.step_table):
            if self._create:
                database.ask(partial(make_table, table))
            database.ask(partial(check_layout, table))
        return database, statements

    def _write(
        self,
        statement: str,
        claim: Claim,
        state: str,
        *,
        lease: float | None = None,
        retention: float | None = None,
        response: bytes | None = None,
    ) -> bool:
        """Run a statement that brings the record of `claim` into a state; one that is gone is inserted anew."""
        database, statements = self._ready()
        values = {
            "id": claim.record.id,
            "token": claim.token,
            "lease": lease,
            "retention": retention,
            "response": response,
        }
        if self._run(database, statement, values)[1] == 1:
            return True
        values |= _named(claim)
        # What is over is as good as gone.
        database.run_together(statements.forget, self._with_clock(values))
        if self._run(database, statements.anew, values | {"state": state})[1] == 1:
            return True
        # Sent again since its reply was lost, the one before stumbled over what it had done itself.
        return self._run(database, statement, values)[1] == 1

    def _run(self, database: Database, statement: str, values: dict[str, Any]) -> tuple[Any, int]:
        return database.run(statement, self._with_clock(values))

    def _execute(self, statement: TextClause, values: dict[str, Any], connection: Connection) -> int:
        """How many rows it changed."""
        return connection.execute(statement, self._with_clock(values)).rowcount

    def _with_clock(self, values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "now": clock.now()} if self._own_clock else values


def _named(claim: Claim) -> dict[str, Any]:
    record = claim.record
    return {
        "id": record.id,
        "key": legible(record.key),
        "method": legible(record.method),
        "path": legible(record.path),
        "fingerprint": claim.fingerprint,
        "token": claim.token,
    }


def _step(claim: Claim, name: str) -> dict[str, Any]:
    return {"id": claim.record.id, "token": claim.token, "name": name.encode()}

"""Which attempt holds an operation in the application's database, and what the one that ended there has answered.

One row for each operation, written in the transaction of the business rows, so that both stand or neither does. The
record in the store is completed afterwards; whatever happens in between, the row says what was done. It is another row
than the record, which the heartbeat renews while the handler runs: under REPEATABLE READ or SERIALIZABLE, writing a row
that was renewed meanwhile would abort the transaction, and SQLite has one writer.

*Done* proves that the operation was done, and has its answer (none: a tombstone, as for a response that streams). It is
final until its retention is over. *Released* says that an attempt ended without an answer that is kept, with what it
had committed (a declined card, say): the next may run. *Held* says which attempt may end the operation, by its token.

How an attempt that was fenced is turned back, whatever the leases, the clocks and the store say:

- The first attempt at an operation expects no row, and *inserts* its end with its rows. It costs no more than that.
- Every later attempt (`number > 1`: an earlier one lapsed, was released, or was resolved by a person) first looks, in
  short transactions of its own. Done: it answers with that, and nothing runs. Else it makes the row *held* by its own
  token, and commits that before its view begins; what it saw must still stand then (a compare-and-swap, looked at again
  where it does not). Its end *updates* the row that it still holds.
- So an earlier attempt that wakes up late finds a row where it wants to insert one, or another's token where it wants
  to update its own, and its whole transaction is undone. If it committed first, the later attempt finds that. Of two
  that reach for the row at the same instant, the primary key lets the second wait for the first, and then go wrong.
- Which of them the store takes for the holder does not matter. Should one sleep between its claim and its hold, it
  takes the row from the attempt that took over from it, and that one is turned back instead. One commits.

What the databases make of it. READ COMMITTED: a unique key that is taken, or an update that finds nothing. REPEATABLE
READ and SERIALIZABLE on PostgreSQL: that, or a serialization failure, since the row changed after the snapshot; whoever
catches either looks at the row before it decides. MariaDB: an update by the primary key locks that row alone, where
there is one; where there is none it would lock the gap, and strangers that insert there would deadlock, so nothing is
looked for or updated that was not seen to be there. SQLite: the transaction of a view begins with the lock of the one
writer, and a hold waits for it.

Where the store encrypts, fingerprint and answer are encrypted as they are there, and bound to their operation. Readable
stay the identity, the kind, the random token, the time, and how long the answer is.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Connection, Double, Engine, MetaData, Row, String, Table, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from ..engine import clock
from ..engine.records import Claim, StoredResponse
from ..engine.store import kept_response
from ..stores.sql_columns import bytes_type, digest_type
from .at_rest import AtRest
from .lock_wait import LockWait
from .tables import discreet

#: Expired rows deleted with each new one: more than one, so that they become fewer.
_SWEEP = 3

#: How often a hold is tried where the row was changed between a look and the write.
_TRIES = 5

TABLE_NAME = "idempotency_proofs"

#: Proofs stand in one place, whatever schema the view has turned its connection to.
_OUR_SCHEMA: Any = {"schema_translate_map": None}


class HeldByOthers(Exception):
    """Others change the row all the time. Nothing was done."""


class Kind(StrEnum):
    """What a row says of its operation."""

    DONE = "done"
    RELEASED = "released"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Proof:
    """What the row of an operation says: by which attempt, for what request, with which answer (None: not kept)."""

    kind: Kind
    token: bytes
    fingerprint: bytes
    response: StoredResponse | None


def proof_table(metadata: MetaData) -> Table:
    """The table of proofs. In the application's metadata, so that its migrations see it."""
    if TABLE_NAME in metadata.tables:
        return metadata.tables[TABLE_NAME]
    return Table(
        TABLE_NAME,
        metadata,
        Column("record_id", digest_type(16), primary_key=True),
        Column("kind", String(8), nullable=False),
        Column("token", digest_type(32), nullable=False),
        Column("fingerprint", digest_type(64), nullable=False),
        Column("response", bytes_type()),
        Column("expires_at", Double, nullable=False, index=True),
    )


class Proofs:
    """Reads and writes the rows, on connections and engines that the caller gives."""

    def __init__(self, table: Table, at_rest: AtRest, lock_wait: LockWait) -> None:
        self.table = table
        self._at_rest = at_rest
        self._lock_wait = lock_wait

    def find(self, connection: Connection, record_id: bytes) -> Proof | None:
        """What the row says; None where there is none, or its retention is over.

        Raises `RecordUnreadable` where it does not say what was done.
        """
        row = self._look(connection, self._at_rest.id_of(record_id))
        return None if row is None or row.expires_at <= clock.now() else self._read(row)

    def hold(self, engine: Engine, claim: Claim, *, retention: float) -> Proof | None:
        """Make the row held by this claim, and return what it said before; or leave it where it says *done*.

        Raises `RecordUnreadable` like `find`, and `HeldByOthers` where the row is another each time it is looked at.
        """
        row_id = self._at_rest.id_of(claim.record.id)
        for left in reversed(range(_TRIES)):
            with engine.connect() as connection:
                seen = self._look(connection, row_id)
            before = None if seen is None or seen.expires_at <= clock.now() else self._read(seen)
            if before is not None and before.kind is Kind.DONE:
                return before
            try:
                with discreet(), engine.begin() as connection:
                    self._lock_wait.bound(connection)
                    held = self._values(row_id, claim, Kind.HELD, None, retention)
                    if seen is None:
                        connection.execute(insert(self.table).values(held))
                        return None
                    if self._change(connection, row_id, seen.kind, bytes(seen.token), held):
                        return before
            except IntegrityError:
                if not left:
                    raise
        raise HeldByOthers

    def end(
        self,
        connection: Connection,
        claim: Claim,
        kind: Kind,
        response: StoredResponse | None,
        *,
        retention: float,
        held: bool,
    ) -> None:
        """Write how the attempt ended, in its transaction. `held`: the attempt has made the row its own.

        Raises SQLAlchemy's `IntegrityError` where the row is another's.
        """
        row_id = self._at_rest.id_of(claim.record.id)
        values = self._values(row_id, claim, kind, response, retention)
        with discreet():
            # Gone where the handler took longer than the retention of the hold: then the insert decides.
            if held and self._change(connection, row_id, Kind.HELD, claim.token, values):
                return
            self._insert(connection, row_id, values)

    def sweep(self, connection: Connection) -> None:
        """Delete a few rows whose retention is over. For a transaction of its own: it may wait for others."""
        table = self.table
        over = select(table.c.record_id).where(table.c.expires_at <= clock.now()).limit(_SWEEP)
        ids = connection.execute(over).scalars().all()
        if ids:
            connection.execute(delete(table).where(table.c.record_id.in_(ids), table.c.expires_at <= clock.now()))

    def _values(
        self, row_id: bytes, claim: Claim, kind: Kind, response: StoredResponse | None, retention: float
    ) -> dict[str, Any]:
        write = self._at_rest.write
        return {
            "record_id": row_id,
            "kind": kind.value,
            "token": claim.token,
            "fingerprint": write(claim.fingerprint, row_id),
            "response": response and write(response.pack(), row_id),
            "expires_at": clock.now() + retention,
        }

    def _look(self, connection: Connection, row_id: bytes) -> Row[Any] | None:
        return connection.execute(select(self.table).where(self.table.c.record_id == row_id)).one_or_none()

    def _read(self, row: Row[Any]) -> Proof:
        row_id, read = bytes(row.record_id), self._at_rest.read
        response = None if row.response is None else read(bytes(row.response), row_id)
        fingerprint = read(bytes(row.fingerprint), row_id)
        return Proof(Kind(row.kind), bytes(row.token), fingerprint, kept_response(response))

    def _change(self, connection: Connection, row_id: bytes, kind: str, token: bytes, values: dict[str, Any]) -> bool:
        """Write `values` over the row of this kind and token; False where it is not that any more."""
        table = self.table
        seen = (table.c.record_id == row_id) & (table.c.kind == str(kind)) & (table.c.token == token)
        changed = connection.execute(update(table).where(seen).values(values), execution_options=_OUR_SCHEMA)
        return changed.rowcount == 1

    def _insert(self, connection: Connection, row_id: bytes, values: dict[str, Any]) -> None:
        """Insert the row. One that has expired is looked for only once it stood in the way: see above, on gaps."""
        row = insert(self.table).values(values)
        try:
            with connection.begin_nested():
                connection.execute(row, execution_options=_OUR_SCHEMA)
        except IntegrityError:
            self._drop_expired(connection, row_id)
            # Whether it was dropped here or swept up meanwhile: only one that holds is in the way now.
            connection.execute(row, execution_options=_OUR_SCHEMA)

    def _drop_expired(self, connection: Connection, row_id: bytes) -> None:
        """Delete this row if its retention is over and only nobody has swept it up."""
        table = self.table
        over = (table.c.record_id == row_id) & (table.c.expires_at <= clock.now())
        connection.execute(delete(table).where(over), execution_options=_OUR_SCHEMA)

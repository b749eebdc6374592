"""The proof that an operation was done: one row that commits with the business rows, or not at all.

The heartbeat renews the claim in the store while the handler runs, so the row that the handler's own transaction
writes must be another: under REPEATABLE READ or SERIALIZABLE, completing a row that was renewed meanwhile would abort
that transaction. The proof is only ever inserted. Its primary key lets one attempt commit, whichever comes first, and
turns every other back, whatever the leases, the clocks and the store say.

Where the store encrypts, fingerprint and answer are encrypted as they are there, and bound to the operation that they
prove. Readable stay the identity, when the proof expires, whether it has an answer, and how long that is.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Double,
    MetaData,
    Table,
    delete,
    insert,
    select,
)
from sqlalchemy.exc import IntegrityError

from ..engine import clock
from ..engine.records import StoredResponse
from ..engine.store import kept_response
from .at_rest import AtRest
from .tables import bytes_type, digest_type, discreet

#: Expired proofs deleted with each new one: more than one, so that they become fewer.
_SWEEP = 3

TABLE_NAME = "idempotency_proofs"

#: Proofs stand in one place, whatever schema the view has turned its connection to.
_OUR_SCHEMA: Any = {"schema_translate_map": None}


@dataclass(frozen=True, slots=True)
class Proof:
    """An operation that was done, and what it answered (None: not kept)."""

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
        Column("fingerprint", digest_type(64), nullable=False),
        Column("response", bytes_type()),
        Column("expires_at", Double, nullable=False, index=True),
    )


class Proofs:
    """Reads and writes proofs on connections that the caller gives."""

    def __init__(self, table: Table, at_rest: AtRest) -> None:
        self.table = table
        self._at_rest = at_rest

    def add(
        self,
        connection: Connection,
        record_id: bytes,
        fingerprint: bytes,
        response: StoredResponse | None,
        *,
        retention: float,
    ) -> None:
        """Write the proof. Raises SQLAlchemy's `IntegrityError` where another attempt has written one.

        An expired proof is looked for only once it stood in the way: under REPEATABLE READ, a look that finds none
        would lock the gap where it is not on MariaDB, and strangers that insert there would deadlock.
        """
        row_id, write = self._at_rest.id_of(record_id), self._at_rest.write
        values = {
            "record_id": row_id,
            "fingerprint": write(fingerprint, row_id),
            "response": response and write(response.pack(), row_id),
            "expires_at": clock.now() + retention,
        }
        proof = insert(self.table).values(values)
        with discreet():
            try:
                with connection.begin_nested():
                    connection.execute(proof, execution_options=_OUR_SCHEMA)
            except IntegrityError:
                self._drop_expired(connection, row_id)
                # Whether it was dropped here or swept up meanwhile: only one that holds is in the way now.
                connection.execute(proof, execution_options=_OUR_SCHEMA)

    def find(self, connection: Connection, record_id: bytes) -> Proof | None:
        """The proof that the operation was done; None where there is none, or its retention is over.

        Raises `RecordUnreadable` where there is one that does not say what was done.
        """
        table, row_id, read = self.table, self._at_rest.id_of(record_id), self._at_rest.read
        row = connection.execute(
            select(table.c.fingerprint, table.c.response).where(
                table.c.record_id == row_id, table.c.expires_at > clock.now()
            )
        ).one_or_none()
        if row is None:
            return None
        fingerprint = read(bytes(row[0]), row_id)
        return Proof(fingerprint, kept_response(None if row[1] is None else read(bytes(row[1]), row_id)))

    def sweep(self, connection: Connection) -> None:
        """Delete a few proofs whose retention is over. For a transaction of its own: it may wait for others."""
        table = self.table
        over = select(table.c.record_id).where(table.c.expires_at <= clock.now()).limit(_SWEEP)
        ids = connection.execute(over).scalars().all()
        if ids:
            connection.execute(delete(table).where(table.c.record_id.in_(ids), table.c.expires_at <= clock.now()))

    def _drop_expired(self, connection: Connection, row_id: bytes) -> None:
        """Delete this proof if its retention is over and only nobody has swept it up."""
        table = self.table
        over = (table.c.record_id == row_id) & (table.c.expires_at <= clock.now())
        connection.execute(delete(table).where(over), execution_options=_OUR_SCHEMA)

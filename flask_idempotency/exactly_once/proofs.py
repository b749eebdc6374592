"""The proof that an operation was done: one row that commits with the business rows, or not at all.

The heartbeat renews the claim in the store while the handler runs, so the row that the handler's own transaction
writes must be another: under REPEATABLE READ or SERIALIZABLE, completing a row that was renewed meanwhile would abort
that transaction. The proof is only ever inserted. Its primary key lets one attempt commit, whichever comes first, and
turns every other back, whatever the leases, the clocks and the store say.
"""

from dataclasses import dataclass

from sqlalchemy import (
    Column,
    Connection,
    Double,
    LargeBinary,
    MetaData,
    Table,
    delete,
    insert,
    select,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from ..engine import clock
from ..engine.records import StoredResponse

#: Expired proofs deleted with each new one: more than one, so that they become fewer.
_SWEEP = 3

TABLE_NAME = "idempotency_proofs"


@dataclass(frozen=True, slots=True)
class Proof:
    """An operation that was done, and what it answered (None: not kept)."""

    fingerprint: bytes
    response: StoredResponse | None


def digest_type() -> TypeEngine[bytes]:
    """The column type of a digest of 16 bytes; a plain BLOB cannot be a key on MariaDB."""
    return LargeBinary(16).with_variant(mysql.VARBINARY(16), "mysql", "mariadb")


def proof_table(metadata: MetaData) -> Table:
    """The table of proofs. In the application's metadata, so that its migrations see it."""
    if TABLE_NAME in metadata.tables:
        return metadata.tables[TABLE_NAME]
    return Table(
        TABLE_NAME,
        metadata,
        Column("record_id", digest_type(), primary_key=True),
        Column("fingerprint", digest_type(), nullable=False),
        Column("response", LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")),
        Column("expires_at", Double, nullable=False, index=True),
    )


class Proofs:
    """Reads and writes proofs on connections that the caller gives."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def add(
        self,
        connection: Connection,
        record_id: bytes,
        fingerprint: bytes,
        response: StoredResponse | None,
        *,
        retention: float,
    ) -> None:
        """Write the proof. Raises SQLAlchemy's `IntegrityError` where another attempt has written one."""
        now = clock.now()
        table = self.table
        connection.execute(delete(table).where(table.c.record_id == record_id, table.c.expires_at <= now))
        connection.execute(
            insert(table).values(
                record_id=record_id,
                fingerprint=fingerprint,
                response=response and response.pack(),
                expires_at=now + retention,
            )
        )

    def find(self, connection: Connection, record_id: bytes) -> Proof | None:
        """The proof that the operation was done; None where there is none, or its retention is over."""
        table = self.table
        row = connection.execute(
            select(table.c.fingerprint, table.c.response).where(
                table.c.record_id == record_id, table.c.expires_at > clock.now()
            )
        ).one_or_none()
        if row is None:
            return None
        return Proof(bytes(row[0]), None if row[1] is None else StoredResponse.unpack(bytes(row[1])))

    def sweep(self, connection: Connection) -> None:
        """Delete a few proofs whose retention is over. For a transaction of its own: it may wait for others."""
        table = self.table
        over = select(table.c.record_id).where(table.c.expires_at <= clock.now()).limit(_SWEEP)
        ids = connection.execute(over).scalars().all()
        if ids:
            connection.execute(delete(table).where(table.c.record_id.in_(ids), table.c.expires_at <= clock.now()))

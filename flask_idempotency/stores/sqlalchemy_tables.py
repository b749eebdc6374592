"""The tables of records and of their steps, and how they come to be."""

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Double,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    select,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from ..engine.store import StoreUnavailable
from .sql_columns import bytes_type, digest_type

RECORDS, STEPS = "idempotency_records", "idempotency_steps"


def record_table(metadata: MetaData) -> Table:
    """The table of records. In the application's metadata, so that its migrations see it."""
    return Table(
        RECORDS,
        metadata,
        Column("id", digest_type(32), primary_key=True),
        # What was first sent, for whoever operates the store: see `legible`.
        Column("idempotency_key", _words(), nullable=False),
        Column("method", _words(), nullable=False),
        Column("path", _words(), nullable=False),
        Column("fingerprint", digest_type(64), nullable=False),
        Column("token", digest_type(16), nullable=False),
        Column("number", Integer, nullable=False),
        Column("lapsed", Boolean, nullable=False),  # whether the attempt took over from one that vanished
        Column("state", String(9), nullable=False),  # running, answering, abandoned, released, completed
        Column("steps", Integer, nullable=False),  # 0: none; 1: one began; 2: one is kept
        Column("started", Double, nullable=False),  # epoch seconds
        Column("lease_ends", Double),  # epoch seconds; NULL unless running or answering
        Column("expires_at", Double, index=True),  # epoch seconds, never before lease_ends; NULL: never
        Column("retention", Double),  # seconds that an answer is kept which ends unseen; NULL: for ever
        Column("response", bytes_type()),  # NULL in a completed record: a tombstone
        keep_existing=True,
    )


def step_table(metadata: MetaData) -> Table:
    """The table of the steps of records. They go with their record."""
    return Table(
        STEPS,
        metadata,
        Column("record_id", digest_type(32), primary_key=True),
        Column("name", digest_type(512), primary_key=True),  # UTF-8: capitals count, whatever the collation
        Column("result", bytes_type()),  # NULL: it began
        keep_existing=True,
    )


def legible(words: str) -> str:
    """`words` as any database takes them, whatever its encoding."""
    if words.isascii() and "\0" not in words:
        return words
    return words.replace("\0", "\\x00").encode("ascii", "backslashreplace").decode()


def make_table(table: Table, connection: Connection) -> None:
    """Make the table where it is missing, by several processes at once."""
    try:
        table.create(connection, checkfirst=True)
    except DBAPIError as error:
        if error.connection_invalidated:
            raise  # on another connection, it is tried again
        # Another process made it in the same moment; else this raises again.
        table.create(connection, checkfirst=True)


def check_layout(table: Table, connection: Connection) -> None:
    """Raise `StoreUnavailable` where the table is of another version of the library: nothing is read from it."""
    try:
        connection.execute(select(table).limit(0))
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        there = {column["name"] for column in inspect(connection).get_columns(table.name, schema=table.schema)}
        missing = ", ".join(sorted(set(table.columns.keys()) - there))
        raise StoreUnavailable(
            f"the table {table.name} is of another version of flask_idempotency, without {missing}: "
            "migrate it, or drop it where no record matters"
        ) from error


def _words() -> TypeEngine[str]:
    return Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")

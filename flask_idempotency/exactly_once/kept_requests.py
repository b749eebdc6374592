"""Requests that are kept while they are worked on, so that the work of a crash can be finished without the client."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Double, Engine, LargeBinary, MetaData, String, Table, Text, delete, insert, select
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import IntegrityError

from ..engine import clock
from .proofs import digest_type

TABLE_NAME = "idempotency_requests"


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """A request as it is kept: without credentials. `context`: what the application said of it, for later."""

    record_id: bytes
    key: str
    principal: bytes
    method: str
    script_name: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    context: Any
    kept_at: float


def request_table(metadata: MetaData) -> Table:
    """The table of kept requests. In the application's metadata, so that its migrations see it."""
    if TABLE_NAME in metadata.tables:
        return metadata.tables[TABLE_NAME]
    long_bytes = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
    return Table(
        TABLE_NAME,
        metadata,
        Column("record_id", digest_type(), primary_key=True),
        Column("idempotency_key", String(255), nullable=False),
        Column("principal", digest_type(), nullable=False),
        Column("method", String(20), nullable=False),
        Column("script_name", Text, nullable=False),
        Column("path", Text, nullable=False),
        Column("query", Text, nullable=False),
        Column("headers", Text, nullable=False),
        Column("body", long_bytes, nullable=False),
        Column("context", Text, nullable=False),
        Column("kept_at", Double, nullable=False, index=True),
    )


class KeptRequests:
    """Keeps requests in one database, each in a transaction of its own."""

    def __init__(self, engine: Engine, table: Table) -> None:
        self._engine = engine
        self._table = table
        table.create(engine, checkfirst=True)

    def keep(self, request: KeptRequest) -> None:
        """Keep a request. One that is kept already, by an attempt that died, stays as it is."""
        values: Mapping[str, Any] = {
            "record_id": request.record_id,
            "idempotency_key": request.key,
            "principal": request.principal,
            "method": request.method,
            "script_name": request.script_name,
            "path": request.path,
            "query": request.query,
            "headers": json.dumps(request.headers),
            "body": request.body,
            "context": json.dumps(request.context),
            "kept_at": request.kept_at,
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(self._table).values(values))
        except IntegrityError:
            if self.find(request.record_id) is None:
                raise

    def forget(self, record_id: bytes) -> None:
        """Forget a request: it has been answered."""
        with self._engine.begin() as connection:
            connection.execute(delete(self._table).where(self._table.c.record_id == record_id))

    def find(self, record_id: bytes) -> KeptRequest | None:
        """The kept request of this operation."""
        with self._engine.connect() as connection:
            row = connection.execute(select(self._table).where(self._table.c.record_id == record_id)).one_or_none()
        return None if row is None else _read(row._mapping)

    def older_than(self, seconds: float, *, limit: int) -> list[KeptRequest]:
        """Up to `limit` requests that were kept at least so many seconds ago, the oldest first."""
        table = self._table
        query = select(table).where(table.c.kept_at <= clock.now() - seconds).order_by(table.c.kept_at).limit(limit)
        with self._engine.connect() as connection:
            return [_read(row._mapping) for row in connection.execute(query)]


def _read(row: Mapping[Any, Any]) -> KeptRequest:
    return KeptRequest(
        record_id=bytes(row["record_id"]),
        key=row["idempotency_key"],
        principal=bytes(row["principal"]),
        method=row["method"],
        script_name=row["script_name"],
        path=row["path"],
        query=row["query"],
        headers=tuple((name, value) for name, value in json.loads(row["headers"])),
        body=bytes(row["body"]),
        context=json.loads(row["context"]),
        kept_at=row["kept_at"],
    )

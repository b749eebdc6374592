"""Requests that are kept while they are worked on, so that the work of a crash can be finished without the client.

Where the store encrypts, they are encrypted under the same keys, and bound to their operation. Readable stay the
identity, the times, and how long the request is.
"""

import json
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Column, Double, Engine, MetaData, Table, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from ..engine import clock
from ..engine.records import Claim, RecordKey
from ..engine.store import RecordUnreadable
from ..stores.sql_columns import bytes_type, digest_type
from .at_rest import AtRest
from .tables import discreet, in_one_schema, make_table

TABLE_NAME = "idempotency_requests"


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """A request as it is kept: without credentials. `context`: what the application said of it, for later."""

    key: str
    principal: bytes
    fingerprint: bytes
    method: str
    scheme: str
    script_name: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    context: Any

    def pack(self) -> bytes:
        """One value for the table; `unpack` is its inverse. Raises `TypeError` where `context` is not JSON."""
        head = (
            self.key,
            self.principal.hex(),
            self.fingerprint.hex(),
            self.method,
            self.scheme,
            self.script_name,
            self.path,
            self.query,
            self.headers,
            self.context,
        )
        return json.dumps(head).encode() + b"\n" + self.body

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Raises `ValueError` where `packed` did not come from `pack`."""
        head, _, body = packed.partition(b"\n")
        try:
            key, principal, fingerprint, method, scheme, script_name, path, query, headers, context = json.loads(head)
            return cls(
                key,
                bytes.fromhex(principal),
                bytes.fromhex(fingerprint),
                method,
                scheme,
                script_name,
                path,
                query,
                tuple((name, value) for name, value in headers),
                body,
                context,
            )
        except (TypeError, ValueError) as error:
            raise ValueError("not a packed request") from error


def request_table(metadata: MetaData) -> Table:
    """The table of kept requests. In the application's metadata, so that its migrations see it."""
    if TABLE_NAME in metadata.tables:
        return metadata.tables[TABLE_NAME]
    return Table(
        TABLE_NAME,
        metadata,
        Column("record_id", digest_type(16), primary_key=True),
        Column("token", digest_type(32), nullable=False),  # of the attempt that kept it
        Column("request", bytes_type(), nullable=False),
        Column("due_at", Double, nullable=False, index=True),  # epoch seconds; not worked on before
        Column("expires_at", Double, nullable=False, index=True),  # epoch seconds; not worked on after
    )


class KeptRequests:
    """Keeps requests in one database, each in a transaction of its own."""

    def __init__(self, engine: Engine, table: Table, at_rest: AtRest, *, namespace: bytes) -> None:
        self._engine = in_one_schema(engine)
        self._table = table
        self._at_rest = at_rest
        self._namespace = namespace
        make_table(table, self._engine)

    def keep(self, request: KeptRequest, claim: Claim, *, due_in: float, expires_in: float) -> None:
        """Keep a request, in the place of one that an attempt that died has left. Times in seconds."""
        table, row_id, now = self._table, self._at_rest.id_of(claim.record.id), clock.now()
        values = {
            "token": claim.token,
            "request": self._at_rest.write(request.pack(), row_id),
            "due_at": now + due_in,
            "expires_at": now + expires_in,
        }
        try:
            with discreet(), self._engine.begin() as connection:
                connection.execute(insert(table).values(record_id=row_id, **values))
        except IntegrityError:
            with discreet(), self._engine.begin() as connection:
                connection.execute(update(table).where(table.c.record_id == row_id).values(values))

    def forget(self, claim: Claim) -> None:
        """Forget the request of this attempt: it has been answered. That of one that took over from it stays."""
        table, row_id = self._table, self._at_rest.id_of(claim.record.id)
        with self._engine.begin() as connection:
            connection.execute(delete(table).where(table.c.record_id == row_id, table.c.token == claim.token))

    def forget_row(self, row_id: bytes) -> None:
        """Forget the request of this row."""
        table = self._table
        with self._engine.begin() as connection:
            connection.execute(delete(table).where(table.c.record_id == row_id))

    def forget_expired(self) -> int:
        """Forget what can no longer be finished, since its key may be new again by now; returns how many."""
        with self._engine.begin() as connection:
            return connection.execute(delete(self._table).where(self._table.c.expires_at <= clock.now())).rowcount

    def due(self, *, limit: int) -> list[bytes]:
        """The rows of up to `limit` requests that may be worked on, those that have been due for longest first."""
        table, now = self._table, clock.now()
        query = select(table.c.record_id).where(table.c.due_at <= now, table.c.expires_at > now)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(table.c.due_at).limit(limit)).scalars()
            return [bytes(row_id) for row_id in rows]

    def take(self, row_id: bytes, *, due_in: float) -> KeptRequest | None:
        """The request of this row, None where it was forgotten meanwhile. It is due again in so many seconds.

        So that others come first the next time, where it fails again and again. Raises `RecordUnreadable`.
        """
        table, now = self._table, clock.now()
        here = (table.c.record_id == row_id) & (table.c.expires_at > now)
        with self._engine.begin() as connection:
            connection.execute(update(table).where(here).values(due_at=now + due_in))
            row = connection.execute(select(table.c.request).where(here)).one_or_none()
        if row is None:
            return None
        try:
            request = KeptRequest.unpack(self._at_rest.read(bytes(row[0]), row_id))
        except ValueError as error:
            raise RecordUnreadable("a kept request is unreadable") from error
        named = RecordKey.of(request.principal, request.key, namespace=self._namespace)
        if self._at_rest.id_of(named.id) != row_id:
            raise RecordUnreadable("a kept request is another's")
        return request

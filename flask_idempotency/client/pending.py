"""Keys that survive a restart of the client."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from os import PathLike

from .keys import new_key

_CREATE = "CREATE TABLE IF NOT EXISTS pending (operation TEXT PRIMARY KEY, key TEXT NOT NULL, since REAL NOT NULL)"
# One statement decides, so that two processes that pin the same operation at once get the same key. The update
# changes nothing: without it, RETURNING gives no row for a key that was there.
_PIN = """
INSERT INTO pending (operation, key, since) VALUES (?, ?, ?)
ON CONFLICT (operation) DO UPDATE SET operation = excluded.operation
RETURNING key, since
"""
_FORGET = "DELETE FROM pending WHERE operation = ?"
_FORGET_KEY = _FORGET + " AND key = ?"
_LIST = "SELECT operation, key FROM pending ORDER BY since, operation"


class KeyOutlived(Exception):
    """The pending key is older than the server's records: it may no longer stop a second run.

    Only somebody who looks up whether the operation was done can decide: if not (or to do it again in any case),
    `PendingKeys.forget(operation)` lets the next attempt have a new key.
    """


class PendingKeys:
    """The keys of operations that have no answer yet, in an SQLite file that threads and processes may share.

        pending = PendingKeys("pending-payments.db")
        with pending.pinned("order-17") as key:
            answer = session.post(url, json=payment, headers={"Idempotency-Key": key})
            answer.raise_for_status()

    For operations without an id of their own that `key_for` could use. `max_age`: how old, in seconds, a key may
    grow. It must stay below the server's retention, and is an hour below its default.
    """

    def __init__(self, path: str | PathLike[str], *, max_age: float = 82_800.0) -> None:
        self._path = path
        self._max_age = max_age
        with self._connection() as connection:
            connection.execute(_CREATE)

    @contextmanager
    def pinned(self, operation: str) -> Iterator[str]:
        """The key of `operation`: on disk before the block begins, forgotten once the block ends without an exception.

        A block that raises, or a process that dies in it, leaves the key for the next one. Raises `KeyOutlived`
        rather than hand out a key that no longer protects.
        """
        with self._connection() as connection:
            ((key, since),) = connection.execute(_PIN, (operation, new_key(), time.time())).fetchall()
        if time.time() - since > self._max_age:
            raise KeyOutlived(
                f"The key of {operation!r} has been pending for longer than {self._max_age:g} s. Look up whether the "
                "operation was done before you forget() its key."
            )
        yield key
        with self._connection() as connection:
            connection.execute(_FORGET_KEY, (operation, key))

    def unfinished(self) -> dict[str, str]:
        """The operations that have no answer yet, oldest first, with their keys: what to take up after a restart."""
        with self._connection() as connection:
            return dict(connection.execute(_LIST).fetchall())

    def forget(self, operation: str) -> None:
        """Drop the key of `operation`: the next attempt is a new operation, and may do it a second time."""
        with self._connection() as connection:
            connection.execute(_FORGET, (operation,))

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        # Opened for each use: cheap beside a request over a network, and nothing to share or to carry over a fork.
        with closing(sqlite3.connect(self._path, timeout=30)) as connection:
            # FULL syncs before a key is handed out: a key that power loss forgets protects nothing.
            connection.execute("PRAGMA synchronous = FULL")
            with connection:
                yield connection

"""One SQLite file that many threads and processes read and write: its connections, its transactions, its waits."""

import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..engine.store import StoreUnavailable
from .group_commit import GroupCommit

T = TypeVar("T")

Row = tuple[Any, ...]

#: The layout of the tables below. A file with another number was written by another version of the library.
SCHEMA_VERSION = 1

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS idempotency_schema (version INTEGER NOT NULL)",
    f"INSERT INTO idempotency_schema SELECT {SCHEMA_VERSION} WHERE NOT EXISTS (SELECT 1 FROM idempotency_schema)",
    """
    CREATE TABLE IF NOT EXISTS idempotency_records (
        id BLOB PRIMARY KEY,
        fingerprint BLOB NOT NULL,
        token BLOB NOT NULL,
        number INTEGER NOT NULL,
        lease_ends REAL,            -- epoch seconds; NULL once completed
        expires_at REAL NOT NULL,   -- epoch seconds; never before lease_ends
        response BLOB               -- NULL in a completed record: a tombstone
    )
    """,
    "CREATE INDEX IF NOT EXISTS idempotency_records_by_expiry ON idempotency_records (expires_at)",
)

#: How many connections for reading are kept open; more are opened for a moment where more threads read at once.
_READERS_KEPT = 16

#: Connections that a fork left in the child. Closing one there could disturb the parent's locks, so none ever is.
_left_to_parent: list[object] = []

#: Seconds between two tries at the write lock while another process holds it: far below SQLite's own busy handler,
#: which grows to 100 ms, so that no waiter oversleeps its turn. One thread per process tries.
_POLL = 0.0003


@dataclass(slots=True)
class Write:
    """One statement, and what it returned."""

    statement: str
    parameters: dict[str, Any]
    durable: bool
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def run(self, connection: sqlite3.Connection) -> None:
        self.rows = connection.execute(self.statement, self.parameters).fetchall()


class SQLiteFile:
    """The file at `path`, made on first use with the tables of `_SCHEMA`.

    Reading takes no lock. Threads that write at the same time share a transaction; processes take turns, and a write
    that waits longer than `busy_timeout` seconds raises `StoreUnavailable`, as every trouble with the file does.
    """

    def __init__(self, path: Path, *, durable: bool, busy_timeout: float) -> None:
        self.path = path
        self._durable = durable
        self._busy_timeout = busy_timeout
        self._begin_afresh()
        if hasattr(os, "register_at_fork"):
            me = weakref.ref(self)

            def leave_to_parent() -> None:
                if file := me():
                    file._leave_to_parent()

            os.register_at_fork(after_in_child=leave_to_parent)

    def select(self, statement: str, *parameters: object) -> list[Row]:
        """The rows that `statement` reads."""
        with self._translated():
            try:
                connection = self._readers.pop()
            except IndexError:
                connection = self._open(synchronous="NORMAL")
            try:
                rows = self._patiently(lambda: connection.execute(statement, parameters).fetchall())
            except BaseException:
                connection.close()
                raise
        if len(self._readers) < _READERS_KEPT:
            self._readers.append(connection)
        else:
            connection.close()
        return rows

    def write(self, statement: str, *, durable: bool, **parameters: object) -> list[Row]:
        """Run one statement and return its rows; `durable`: on disk when this returns."""
        write = Write(statement, parameters, durable)
        self._commits.submit((write,))
        return write.rows

    def write_all(self, writes: Sequence[Write]) -> None:
        """Run all these writes in one transaction."""
        self._commits.submit(writes)

    def close(self) -> None:
        """Close every connection; the next call opens new ones."""
        with self._opening:
            self._close_all()

    def _begin_afresh(self) -> None:
        self._opening = threading.Lock()
        self._inode: int | None = None  # of the file that was found ready; None: to be looked at
        self._readers: deque[sqlite3.Connection] = deque()
        self._writers: dict[bool, sqlite3.Connection] = {}  # by whether a commit waits for the disk
        self._commits: GroupCommit[Sequence[Write]] = GroupCommit(self._commit)

    def _leave_to_parent(self) -> None:
        _left_to_parent.append((self._readers, self._writers))
        self._begin_afresh()

    def _close_all(self) -> None:
        while self._readers:
            self._readers.pop().close()
        while self._writers:
            self._writers.popitem()[1].close()
        self._inode = None

    def _commit(self, jobs: Sequence[Sequence[Write]]) -> None:
        """Run all these writes in one transaction. Called by one thread at a time."""
        writes = [write for job in jobs for write in job]
        durable = self._durable and any(write.durable for write in writes)
        with self._translated():
            connection = self._writer(durable)
            try:
                if len(writes) == 1:  # a transaction of its own, as SQLite makes one
                    self._patiently(lambda: writes[0].run(connection))
                else:
                    self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
                    for write in writes:
                        write.run(connection)
                    connection.execute("COMMIT")
            except BaseException:
                # What a failed write left of the transaction and of the connection, nobody should have to know.
                del self._writers[durable]
                connection.close()
                raise

    def _writer(self, durable: bool) -> sqlite3.Connection:
        self._notice_another_file()
        connection = self._writers.get(durable)
        if connection is None:
            connection = self._writers[durable] = self._open(synchronous="FULL" if durable else "NORMAL")
        return connection

    def _notice_another_file(self) -> None:
        """Reopen where the file was removed or replaced: writing on into the old one would split the records in two."""
        if self._inode is None:
            return
        try:
            same = self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            same = False
        if not same:
            with self._opening:
                self._close_all()

    def _open(self, *, synchronous: str) -> sqlite3.Connection:
        with self._opening:
            fresh = self._inode is None
            if fresh:
                self._make_file()
            connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                # The first statement of a connection may meet another process's lock, even a PRAGMA.
                self._patiently(lambda: connection.execute(f"PRAGMA synchronous={synchronous}"))
                if fresh:
                    self._patiently(lambda: _make_ready(connection, self.path))
                    self._inode = self.path.stat().st_ino
            except BaseException:
                connection.close()
                raise
            return connection

    def _make_file(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Answers are private: only the user whom the application runs as may read them.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))

    def _patiently(self, act: Callable[[], T]) -> T:
        """Do it, again and again while another process holds the lock it needs."""
        # The time slept is summed, not read from a clock that a test may have stopped.
        left = self._busy_timeout
        while True:
            try:
                return act()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or left <= 0:
                    raise
            time.sleep(_POLL)
            left -= _POLL

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"SQLite file {self.path.name}: {error}") from error


def _make_ready(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables where there are none, and refuse those of another version."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _SCHEMA:
            connection.execute(statement)
        ((version,),) = connection.execute("SELECT version FROM idempotency_schema").fetchall()
    finally:
        connection.execute("COMMIT")
    if version != SCHEMA_VERSION:
        raise StoreUnavailable(
            f"SQLite file {path.name} has the layout {version} of another version of flask_idempotency; "
            f"this one knows {SCHEMA_VERSION}"
        )

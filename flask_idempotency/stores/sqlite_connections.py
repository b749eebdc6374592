"""The connections that one process keeps to one SQLite file, and the tables in it."""

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..engine.store import StoreUnavailable

#: The layout of the tables below. A file with another number was written by another version of the library.
SCHEMA_VERSION = 1

_SCHEMA = (
    "CREATE TABLE idempotency_schema (version INTEGER NOT NULL)",
    f"INSERT INTO idempotency_schema VALUES ({SCHEMA_VERSION})",
    """
    CREATE TABLE idempotency_records (
        id BLOB PRIMARY KEY,
        fingerprint BLOB NOT NULL,
        token BLOB NOT NULL,
        number INTEGER NOT NULL,
        lease_ends REAL,            -- epoch seconds; NULL once completed
        expires_at REAL NOT NULL,   -- epoch seconds; never before lease_ends
        response BLOB               -- NULL in a completed record: a tombstone
    )
    """,
    "CREATE INDEX idempotency_records_by_expiry ON idempotency_records (expires_at)",
)

_HAS_SCHEMA = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'idempotency_schema'"

#: How many idle connections are kept of each kind; more are opened for a moment where more threads read at once.
_KEPT = 16

#: Troubles in which the other connections are left open: on a full disk none could be opened again, not even to read.
_OF_THE_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)

#: Connections that a fork left in the child. Closing one there could disturb the parent's locks, so none ever is.
_left_to_parent: list[object] = []


class _Opened:
    """The idle connections to one file, which `identity` (device, inode) tells from another in its place."""

    def __init__(self, identity: tuple[int, int]) -> None:
        self.identity = identity
        self.retired = False
        #: By whether a commit waits for the disk.
        self.idle: dict[bool, deque[sqlite3.Connection]] = {False: deque(), True: deque()}

    def retire(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        self.retired = True
        for idle in self.idle.values():
            with suppress(IndexError):
                while True:
                    idle.pop().close()


class SQLiteConnections:
    """Connections to the file at `path`, which is made on first use. Nothing here waits for another's lock.

    Raises what `sqlite3` and the file system raise, and `StoreUnavailable` for a file of another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = os.fspath(path)
        self._uri = f"{path.as_uri()}?mode=rw"  # never made by SQLite, which would let everybody read it
        self._begin_afresh()

    @contextmanager
    def borrow(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """A connection for this thread alone; `durable`: its commits wait for the disk."""
        opened = self._ready()
        idle = opened.idle[durable]
        try:
            connection = idle.pop()
        except IndexError:
            connection = self._connect(durable)
        try:
            yield connection
        except BaseException as error:
            if is_busy(error) and not connection.in_transaction:
                idle.append(connection)
            else:
                # What the trouble left of a transaction and of a connection, nobody should have to know.
                connection.close()
                if isinstance(error, sqlite3.Error) and _code(error) not in _OF_THE_DISK:
                    self._retire(opened)
            raise
        if len(idle) >= _KEPT:
            connection.close()
            return
        idle.append(connection)
        if opened.retired:  # looked at after it is back, so that none slips by
            opened.retire()

    def close(self) -> None:
        """Close all; the next to borrow opens the file again."""
        opened = self._opened
        if opened is not None:
            self._retire(opened)

    def leave_to_parent(self) -> None:
        """In a forked child: begin without what the parent had."""
        _left_to_parent.append(self._opened)
        self._begin_afresh()

    def _begin_afresh(self) -> None:
        self._opening = threading.Lock()
        self._opened: _Opened | None = None

    def _retire(self, opened: _Opened) -> None:
        if self._opened is opened:
            self._opened = None
        opened.retire()

    def _ready(self) -> _Opened:
        """The file, opened; afresh where it was removed or replaced: to go on with the old would split the records."""
        opened = self._opened
        if opened is not None:
            if self._identity() == opened.identity:
                return opened
            self._retire(opened)
        with self._opening:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> _Opened:
        _make_file(self._path)
        identity = self._identity()
        if identity is None:
            raise FileNotFoundError(f"{self._path.name} was removed as soon as it was made")
        opened = _Opened(identity)
        connection = self._connect(durable=False)
        try:
            _make_ready(connection, self._path.name)
        except BaseException:
            connection.close()
            raise
        opened.idle[False].append(connection)
        return opened

    def _connect(self, durable: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(self._uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._name)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino


def is_busy(error: BaseException) -> bool:
    """Whether another's lock was in the way, so that trying again may help."""
    return isinstance(error, sqlite3.Error) and _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: sqlite3.Error) -> int:
    """The kind of trouble, without its particulars. An error of the driver itself has none."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF


def _make_file(path: Path) -> None:
    """Make the file where there is none. Answers are private: only the application's own user may read them."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        try:
            # Not by opening it: closing a file drops all the locks that SQLite holds on it in this process (POSIX).
            os.mknod(path, 0o600)
        except (AttributeError, PermissionError):  # Windows has no such call, macOS reserves it
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _make_ready(connection: sqlite3.Connection, name: str) -> None:
    """Make the tables where there are none, and refuse those of another version, untouched."""
    if connection.execute(_HAS_SCHEMA).fetchone() is None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute(_HAS_SCHEMA).fetchone() is None:
            for statement in _SCHEMA:
                connection.execute(statement)
        connection.execute("COMMIT")
    version = connection.execute("SELECT version FROM idempotency_schema").fetchone()
    if version != (SCHEMA_VERSION,):
        raise StoreUnavailable(
            f"SQLite file {name} has the layout {version and version[0]} of another version of flask_idempotency; "
            f"this one knows {SCHEMA_VERSION}"
        )

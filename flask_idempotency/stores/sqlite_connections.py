"""The connections that one process keeps to one SQLite file."""

import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..engine import clock
from .fork_gate import ForkGate
from .sqlite_schema import make_ready

Row = tuple[Any, ...]

#: How many idle connections are kept; more are opened for a moment where more threads read at once.
_KEPT = 16

#: KiB of pages that a connection may keep in memory, so that what leads to a record among millions need not be read
#: each time.
_CACHE = 4096

#: Seconds for which a file that was seen in its place is taken to be there still, where nothing is decided by it.
_LOOK_AGAIN = 0.05

#: How many pages the log may grow to before SQLite itself, in the middle of a commit, copies it back. `Checkpoints`
#: comes before that, unless every process ends before its time.
_LOG_PAGES = 16_000

#: Troubles that are the disk's, not the connection's: what can be read is still to be read.
_OF_THE_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)

#: Connections that a fork left in the child. Closing one there could disturb the parent's locks, so none ever is.
_left_to_parent: list[object] = []


class Connection:
    """One connection, for one thread at a time."""

    __slots__ = ("__weakref__", "_known", "execute", "opened", "raw", "waits")

    def __init__(self, raw: sqlite3.Connection, opened: "_Opened", known: set[object]) -> None:
        self.raw = raw
        self.opened = opened
        self.execute = raw.cursor().execute  # always the same cursor: none is made for each statement
        self.waits = False  # whether its commits return only when they are on the disk
        # Forgotten when it is closed or, where its thread was torn off, when nobody has it any more.
        self._known = weakref.ref(self, known.discard)
        known.add(self._known)

    def wait_for_disk(self, wanted: bool) -> None:
        """Whether the next commits return only when they are on the disk. Not to be changed within a transaction.

        A connection for each kind would be simpler, but whatever the one writes, the other has to read again.
        """
        if self.waits is not wanted:
            # As a script, because it takes effect when it is compiled: a statement found in the cache would do nothing.
            self.raw.executescript(f"PRAGMA synchronous={'FULL' if wanted else 'NORMAL'}")
            self.waits = wanted

    def close(self, known: set[object]) -> None:
        """Close it for good."""
        self.raw.close()
        known.discard(self._known)


class _Opened:
    """The idle connections to one file, which `device` and `inode` tell from another in its place."""

    __slots__ = ("device", "idle", "inode", "retired", "seen")

    def __init__(self, found: os.stat_result) -> None:
        self.device, self.inode = found.st_dev, found.st_ino
        self.seen = time.monotonic()  # when the file was last seen in its place
        self.retired = False
        self.idle: deque[Connection] = deque()  # the last to be used is the next, since it knows the newest pages


class SQLiteConnections:
    """Connections to the file at `path`, which is made on first use. Nothing here waits for another's lock.

    Raises what `sqlite3` and the file system raise, and `StoreUnavailable` for a file of another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = os.fspath(path)
        self._uri = f"{path.as_uri()}?mode=rw"  # never made by SQLite, which would let everybody read it
        self._begin_afresh()
        self._gate = ForkGate(close=self.close, busy=self._any_open, in_child=self._leave_to_parent)

    def take(self) -> Connection:
        """A connection for this thread alone, until it is given back or dropped."""
        opened = self._ready()
        try:
            return opened.idle.pop()
        except IndexError:
            return self._connect_one_more(opened)

    def give_back(self, connection: Connection) -> None:
        """Let another thread have it."""
        opened = connection.opened
        opened.idle.append(connection)
        if opened.retired or len(opened.idle) > _KEPT:  # looked at after it is back, so that none slips by
            self._trim(opened)

    def read(self, statement: str, values: Row) -> Row | None:
        """The first row that `statement` reads; it reads no other.

        For what decides nothing: the file may have been removed a moment ago. A call within a call is what this saves.
        """
        opened = self._opened
        # A clock that is stopped or set by a test may be anywhere.
        if opened is None or abs(time.monotonic() - opened.seen) > _LOOK_AGAIN:
            opened = self._ready()
        try:
            connection = opened.idle.pop()
        except IndexError:
            connection = self._connect_one_more(opened)
        try:
            row: Row | None = connection.execute(statement, values).fetchone()
        except BaseException as error:
            self.drop(connection, error)
            raise
        opened.idle.append(connection)
        if opened.retired or len(opened.idle) > _KEPT:
            self._trim(opened)
        return row

    def change(self, statement: str, values: Callable[[float], Row], *, wait_for_disk: bool) -> int:
        """How many rows `statement` wrote, in a transaction of its own, with the parameters of the moment."""
        opened = self._ready()
        try:
            connection = opened.idle.pop()
        except IndexError:
            connection = self._connect_one_more(opened)
        try:
            if connection.waits is not wait_for_disk:
                connection.wait_for_disk(wait_for_disk)
            changed: int = connection.execute(statement, values(clock.now())).rowcount
        except BaseException as error:
            self.drop(connection, error)
            raise
        opened.idle.append(connection)
        if opened.retired or len(opened.idle) > _KEPT:
            self._trim(opened)
        return changed

    def drop(self, connection: Connection, error: BaseException) -> None:
        """Have done with it after this error."""
        harmless = is_busy(error) or isinstance(error, sqlite3.IntegrityError)
        if harmless and not connection.raw.in_transaction:
            self.give_back(connection)
        elif isinstance(error, sqlite3.Error) and _code(error) in _OF_THE_DISK:
            self._replace(connection)
        else:
            # What the trouble left of a transaction and of a connection, nobody should have to know.
            connection.close(self._known)
            if isinstance(error, sqlite3.Error):
                self._retire(connection.opened)

    def any_in_use(self) -> bool:
        """Whether some thread has one now."""
        opened = self._opened
        return opened is not None and len(self._known) > len(opened.idle)

    def close(self) -> None:
        """Close all that are idle, and the others when they come back; the next to take one opens the file again."""
        opened = self._opened
        if opened is not None:
            self._retire(opened)

    def _begin_afresh(self) -> None:
        self._opening = threading.Lock()
        self._opened: _Opened | None = None
        #: Whatever a fork has to wait for: connections, and threads that are about to open one.
        self._known: set[object] = set()

    def _leave_to_parent(self) -> None:
        """In a forked child: begin without what the parent had."""
        _left_to_parent.append(self._opened)
        self._begin_afresh()

    def _any_open(self) -> bool:
        return bool(self._known)

    def _retire(self, opened: _Opened) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        if self._opened is opened:
            self._opened = None
        opened.retired = True
        self._trim(opened)

    def _trim(self, opened: _Opened) -> None:
        """Close what is idle and not to be kept."""
        with suppress(IndexError):
            while opened.retired or len(opened.idle) > _KEPT:
                opened.idle.popleft().close(self._known)

    def _replace(self, connection: Connection) -> None:
        """Open another, and only then close this one: where it was the last, a full disk would let none be opened."""
        try:
            other = self._connect(connection.opened)
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                connection.raw.rollback()
            if not connection.raw.in_transaction:
                self.give_back(connection)
                return
        else:
            self.give_back(other)
        connection.close(self._known)

    def _ready(self) -> _Opened:
        """The file, opened; afresh where it was removed or replaced: to go on with the old would split the records."""
        opened = self._opened
        if opened is not None:
            try:
                found = os.stat(self._name)
            except FileNotFoundError:
                found = None
            if found is not None and found.st_ino == opened.inode and found.st_dev == opened.device:
                opened.seen = time.monotonic()
                return opened
            self._retire(opened)
        with self._entered(), self._opening:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """Hold the next fork up, having waited for one that is under way."""
        me = object()
        try:
            self._known.add(me)
            while not self._gate.is_open:
                self._known.discard(me)
                self._gate.wait()
                self._known.add(me)
            yield
        finally:
            self._known.discard(me)

    def _open(self) -> _Opened:
        _make_file(self._path)
        opened = _Opened(os.stat(self._name))
        connection = self._connect(opened)
        try:
            make_ready(connection.raw, self._path.name)
        except BaseException:
            connection.close(self._known)
            raise
        opened.idle.append(connection)
        return opened

    def _connect_one_more(self, opened: _Opened) -> Connection:
        with self._entered():
            return self._connect(opened)

    def _connect(self, opened: _Opened) -> Connection:
        raw = sqlite3.connect(self._uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            raw.executescript(
                f"PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint={_LOG_PAGES}; PRAGMA cache_size=-{_CACHE}"
            )
        except BaseException:
            raw.close()
            raise
        return Connection(raw, opened, self._known)


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

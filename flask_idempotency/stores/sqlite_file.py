"""One SQLite file that many threads and processes read and write: its transactions, and the waiting for them."""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from ..engine import clock
from ..engine.forks import call_in_child
from ..engine.store import StoreUnavailable
from .group_commit import GroupCommit, NoTurn
from .sqlite_checkpoints import Checkpoints
from .sqlite_connections import Connection, Row, SQLiteConnections, is_busy
from .turnstile import Turnstile

T = TypeVar("T")

#: Seconds between two tries at a lock that another process holds: at first, and after some tries. Far below SQLite's
#: own busy handler, which grows to 100 ms, so that no waiter oversleeps its turn. One thread per process tries.
_POLL_FIRST, _POLL, _FIRST_TRIES = 0.00005, 0.0003, 40

#: Of the time that a write may wait, how much for the turnstile: who waits longer is not behind others, but behind a
#: process that was stopped in there.
_SHARE_FOR_TURNSTILE = 0.05

#: Seconds that a thread pauses after a write while others are at it.
_GIVE_WAY = 1e-6


#: How often a statement is tried whose row would stand in a place that is taken.
_TRIES = 50


class Write:
    """One statement: `values` gives its parameters at the moment when it runs, however long it waited for its turn."""

    __slots__ = ("changed", "statement", "values")

    def __init__(self, statement: str, values: Callable[[float], Row]) -> None:
        self.statement = statement
        self.values = values
        self.changed = 0  # how many rows it wrote

    def run(self, connection: Connection) -> None:
        """Run it, in a transaction of its own where there is none."""
        for left in reversed(range(_TRIES)):
            try:
                self.changed = connection.execute(self.statement, self.values(clock.now())).rowcount
            except sqlite3.IntegrityError:  # chance has chosen a place that is taken: let it choose again
                if not left:
                    raise
            else:
                return


class _Job(NamedTuple):
    """What one thread wants written together, and whether it must be on the disk before that thread goes on."""

    writes: Sequence[Write]
    durable: bool


class SQLiteFile:
    """The file at `path`, made on first use.

    Reading takes no lock. Threads that write at the same time share a transaction; processes take turns, and a write
    that waits longer than `busy_timeout` seconds raises `StoreUnavailable`, as every trouble with the file does.
    """

    def __init__(self, path: Path, *, durable: bool, busy_timeout: float) -> None:
        self.path = path = path.absolute()  # the process may change its folder later
        self._durable = durable
        self._busy_timeout = busy_timeout
        self._connections = SQLiteConnections(path)
        self._turnstile = Turnstile(path.with_name(f"{path.name}-turn"))
        self._commits: GroupCommit[_Job] = GroupCommit(self._commit)
        self._checkpoints = Checkpoints(self._checkpoint)
        call_in_child(self._begin_afresh)

    def first(self, statement: str, values: Row) -> Row | None:
        """The first row that `statement` reads; it reads no other."""
        try:
            return self._connections.read(statement, values)
        except (sqlite3.Error, OSError) as error:
            if not is_busy(error):
                raise self._trouble(error) from error
        rows = self.read(statement, values)
        return rows[0] if rows else None

    def read(self, statement: str, values: Row = ()) -> list[Row]:
        """The rows that `statement` reads."""
        try:
            try:
                return self._fetch(statement, values)
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
            return self._patiently(lambda: self._fetch(statement, values))
        except (sqlite3.Error, OSError) as error:
            raise self._trouble(error) from error

    def change(self, statement: str, values: Callable[[float], Row], *, durable: bool) -> int:
        """As `write` of one statement; how many rows it wrote. Where nobody is in the way, nothing is sooner done."""
        durable = durable and self._durable
        commits = self._commits
        changed = None
        me = object()
        try:
            if commits.enter(me) and self._turnstile.empty():
                changed = self._connections.change(statement, values, wait_for_disk=durable)
            commits.leave(me)
        except BaseException as error:
            commits.leave(me)
            if not is_busy(error) and not isinstance(error, sqlite3.IntegrityError):
                if isinstance(error, sqlite3.Error | OSError):
                    raise self._trouble(error) from error
                raise
        if changed is None:
            # Somebody is in the way, or in the place: this takes its turn among them.
            write = Write(statement, values)
            self.write(write, durable=durable)
            return write.changed
        self._after(changed)
        return changed

    def write(self, *writes: Write, durable: bool, scattered: bool = False) -> None:
        """Run all these in one transaction; `durable`: on the disk when this returns, unless the file never is.

        `scattered`: their rows stand all over the file, and not side by side as new ones do.
        """
        self._commits.submit(_Job(writes, durable and self._durable))
        self._after(sum([write.changed for write in writes]), scattered=scattered)

    def close(self) -> None:
        """Close every connection that is not in use now; the next call opens new ones."""
        self._connections.close()

    def _begin_afresh(self) -> None:
        self._turnstile.close()
        self._commits = GroupCommit(self._commit)

    def _after(self, rows: int, *, scattered: bool = False) -> None:
        self._checkpoints.after(rows, scattered=scattered)
        if not self._durable and self._connections.any_in_use():
            time.sleep(_GIVE_WAY)

    def _fetch(self, statement: str, values: Row) -> list[Row]:
        return self._use(lambda connection: connection.execute(statement, values).fetchall())

    def _checkpoint(self, statement: str) -> tuple[int, int, int]:
        ((busy, pages, copied),) = self._fetch(statement, ())
        return busy, pages, copied

    def _commit(self, jobs: Sequence[_Job]) -> None:
        """Run all these in one transaction. Called by one thread at a time."""
        durable = any([job.durable for job in jobs])  # noqa: C419 - a list is made sooner than a generator
        writes = [write for job in jobs for write in job.writes]

        def run(connection: Connection) -> None:
            connection.wait_for_disk(durable)
            if len(writes) == 1 and not self._turnstile.entered:
                writes[0].run(connection)  # a transaction of its own, as SQLite makes one
                return
            connection.execute("BEGIN IMMEDIATE")
            # The write lock is ours: whoever comes next may begin to wait for it.
            self._turnstile.leave()
            for job in self._commits.latecomers(lambda job: durable or not job.durable):
                writes.extend(job.writes)
            for write in writes:
                write.run(connection)
            connection.execute("COMMIT")

        try:
            if self._turnstile.empty():
                try:
                    return self._use(run)
                except sqlite3.OperationalError as error:
                    if not is_busy(error):
                        raise
            try:
                self._wait_for_turn()
                self._patiently(lambda: self._use(run))
            finally:
                self._turnstile.leave()
        except (sqlite3.Error, OSError) as error:
            raise self._trouble(error) from error

    def _use(self, act: Callable[[Connection], T]) -> T:
        connection = self._connections.take()
        try:
            result = act(connection)
        except BaseException as error:
            self._connections.drop(connection, error)
            raise
        self._connections.give_back(connection)
        return result

    def _wait_for_turn(self) -> None:
        for _ in _naps(self._busy_timeout * _SHARE_FOR_TURNSTILE):
            if self._turnstile.enter():
                return
        self._turnstile.give_up()

    def _patiently(self, act: Callable[[], T]) -> T:
        """Do it, again and again while another process holds the lock it needs."""
        trouble: sqlite3.OperationalError | None = None
        for _ in _naps(self._busy_timeout):
            try:
                return act()
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                trouble = error
        assert trouble is not None
        raise trouble

    def _trouble(self, error: Exception) -> StoreUnavailable:
        kind = NoTurn if is_busy(error) else StoreUnavailable
        return kind(f"SQLite file {self.path.name}: {error}")


def _naps(seconds: float) -> Iterator[None]:
    """Come back at once, and again after each of many short sleeps, until they sum up to `seconds`."""
    # Summed, not read from a clock that a test may have stopped.
    yield
    tries, left = 0, seconds
    while left > 0:
        nap = _POLL_FIRST if tries < _FIRST_TRIES else _POLL
        time.sleep(nap)
        yield
        tries += 1
        left -= nap

"""One SQLite file that many threads and processes read and write: its transactions, and the waiting for them."""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..engine import clock
from ..engine.store import StoreUnavailable
from .fork_gate import ForkGate
from .group_commit import GroupCommit, NoTurn
from .sqlite_connections import SQLiteConnections, is_busy
from .turnstile import Turnstile

T = TypeVar("T")

Row = tuple[Any, ...]

#: Seconds between two tries at a lock that another process holds: at first, and after some tries. Far below SQLite's
#: own busy handler, which grows to 100 ms, so that no waiter oversleeps its turn. One thread per process tries.
_POLL_FIRST, _POLL, _FIRST_TRIES = 0.00005, 0.0003, 40

#: Of the time that a write may wait, how much for the turnstile: who waits longer is not behind others, but behind a
#: process that was stopped in there.
_SHARE_FOR_TURNSTILE = 0.05


@dataclass(slots=True)
class Write:
    """One statement, which may ask for `:now`, and what it returned."""

    statement: str
    parameters: dict[str, Any]
    durable: bool
    rows: list[Row] = field(default_factory=list)

    def run(self, connection: sqlite3.Connection) -> None:
        self.rows = connection.execute(self.statement, {**self.parameters, "now": clock.now()}).fetchall()


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
        self._commits: GroupCommit[Sequence[Write]] = GroupCommit(self._commit)
        self._gate = ForkGate(before=self._connections.close, in_child=self._begin_afresh)

    def select(self, statement: str, *parameters: object) -> list[Row]:
        """The rows that `statement` reads."""

        def read() -> list[Row]:
            with self._connections.borrow(durable=False) as connection:
                return connection.execute(statement, parameters).fetchall()

        with self._translated():
            return self._patiently(read)

    def write(self, statement: str, *, durable: bool, **parameters: object) -> list[Row]:
        """Run one statement and return its rows; `durable`: on disk when this returns."""
        write = Write(statement, parameters, durable)
        self._commits.submit((write,))
        return write.rows

    def write_all(self, writes: Sequence[Write]) -> None:
        """Run all these writes in one transaction."""
        if writes:
            self._commits.submit(writes)

    def close(self) -> None:
        """Close every connection that is not in use now; the next call opens new ones."""
        with self._gate:
            self._connections.close()

    def _begin_afresh(self) -> None:
        self._connections.leave_to_parent()
        self._turnstile.close()
        self._commits = GroupCommit(self._commit)

    def _commit(self, jobs: Sequence[Sequence[Write]]) -> None:
        """Run all these writes in one transaction. Called by one thread at a time."""
        writes = [write for job in jobs for write in job]
        durable = self._durable and any(write.durable for write in writes)

        def at_once() -> None:
            with self._connections.borrow(durable=durable) as connection:
                writes[0].run(connection)  # a transaction of its own, as SQLite makes one

        def in_turn() -> None:
            with self._connections.borrow(durable=durable) as connection:
                connection.execute("BEGIN IMMEDIATE")
                # The write lock is ours: whoever comes next may begin to wait for it.
                self._turnstile.leave()
                for write in writes:
                    write.run(connection)
                connection.execute("COMMIT")

        with self._translated():
            if len(writes) == 1 and self._turnstile.empty():
                try:
                    with self._gate:
                        return at_once()
                except sqlite3.OperationalError as error:
                    if not is_busy(error):
                        raise
            try:
                self._wait_for_turn()
                self._patiently(in_turn)
            finally:
                self._turnstile.leave()

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
                with self._gate:
                    return act()
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                trouble = error
        assert trouble is not None
        raise trouble

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            kind = NoTurn if is_busy(error) else StoreUnavailable
            raise kind(f"SQLite file {self.path.name}: {error}") from error


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

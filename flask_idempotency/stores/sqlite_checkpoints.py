"""Copies SQLite's log back into the file by and by, while others go on writing."""

import sqlite3
from collections.abc import Callable

#: Every so many written rows, one thread copies. Few enough that the log stays small and is written over again, many
#: enough that hardly any request is the one that pays.
_ROWS = 2000

#: How many times as much of the file is to be written for rows that are scattered over it. To write much at once keeps
#: the disk busy, and all who wait for it waiting.
_SCATTERED = 16

#: From so many pages on the log is begun anew, for which everybody has to wait a moment.
_LONG_LOG = 8000

#: How often that is tried in a row: it takes a moment in which nobody reads.
_TRIES = 20

_COPY = "PRAGMA wal_checkpoint(PASSIVE)"
_COPY_AND_BEGIN_ANEW = "PRAGMA wal_checkpoint(RESTART)"


class Checkpoints:
    """Counts what was written, and copies when it is time.

    SQLite would do so in the middle of some commit, with everybody else waiting behind it for the disk; a thread that
    does it after its own commit, and out of turn, makes nobody wait but itself. `run` runs a statement and returns
    its first row.
    """

    def __init__(self, run: Callable[[str], tuple[int, int, int]]) -> None:
        self._run = run
        self._rows = 0  # threads may race on it: a checkpoint more or less does no harm

    def after(self, rows: int, *, scattered: bool) -> None:
        """Tell of so many written rows. To be called where nobody waits for this thread."""
        self._rows += rows * _SCATTERED if scattered else rows
        if self._rows < _ROWS:
            return
        self._rows = 0
        try:
            _, pages, _ = self._run(_COPY)
            # Copied in full, the log is begun anew by itself, but among many writers there is always one page more.
            for _ in range(_TRIES):
                if pages < _LONG_LOG:
                    break
                left, pages, _ = self._run(_COPY_AND_BEGIN_ANEW)
                if not left:
                    break
        except (sqlite3.Error, OSError):
            # A checkpoint never decides over a request: what it could not copy is safe in the log.
            return

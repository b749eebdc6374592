"""Lets processes that wait for one file's write lock take it in the order in which they came."""

import os
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there, who tries at the right moment wins
    fcntl = None  # type: ignore[assignment]

#: How many processes can queue; where more wait, chance decides who joins the queue next.
_PLACES = 8

#: So many entries pass by the queue once one has waited in vain: somebody in the queue was stopped there.
_ENTRIES_SKIPPED = 200

#: Who finds the queue empty passes by so many times before asking again: nobody waits long for that, and asking costs
#: two system calls. Who finds somebody, or waits, asks every time for a while.
_PASSED_BY, _ASKED = 7, 64


class Turnstile:
    """A queue in the bytes of a lock file: each who waits locks the byte of its place, and moves up.

    A process that has just let go of the write lock and wants it again finds others in the queue, and joins it behind
    them. A courtesy, never a condition: without it the write lock is as exclusive, only less fair. The kernel frees
    the place of a process that dies, and a forked child has none. Used by one thread at a time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._place: int | None = None  # 0: at the head
        self._skip = 0
        self._pass_by = 0
        self._ask = 0

    def empty(self) -> bool:
        """Whether no other process waits, as far as is known."""
        if self._skip:
            return True
        if self._pass_by:
            self._pass_by -= 1
            return True
        if not self._take(0, _PLACES):
            self._ask = _ASKED
            return False
        self._free(0, _PLACES)
        if self._ask:
            self._ask -= 1
        else:
            self._pass_by = _PASSED_BY
        return True

    @property
    def entered(self) -> bool:
        """Whether this process has a place in the queue."""
        return self._place is not None

    def enter(self) -> bool:
        """Join the queue or move up in it; True at its head. To be called until then."""
        if self._skip:
            self._skip -= 1
            return True
        self._ask = _ASKED
        while self._place != 0:
            ahead = _PLACES - 1 if self._place is None else self._place - 1
            if not self._take(ahead, 1):
                return False
            if self._place is not None:
                self._free(self._place, 1)
            self._place = ahead
        return True

    def leave(self) -> None:
        """Let the next one move up."""
        if self._place is not None:
            self._free(self._place, 1)
            self._place = None

    def give_up(self) -> None:
        """Pass by the queue for a while: it did not move."""
        self.leave()
        self._skip = _ENTRIES_SKIPPED

    def close(self) -> None:
        """Let go of the file."""
        self._place = None
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        self.close()

    def _take(self, first: int, count: int) -> bool:
        if fcntl is None:
            return True
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, count, first)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as the system likes
            return self._file is None
        except OSError:  # no such folder, no room, no locks on this file system
            return True
        return True

    def _free(self, first: int, count: int) -> None:
        if self._file is not None:
            with suppress(OSError):  # no locks on this file system
                fcntl.lockf(self._file, fcntl.LOCK_UN, count, first)

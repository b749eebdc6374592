"""A lock that no fork copies."""

import os
import threading
from types import TracebackType


class ProcessLock:
    """A lock of which each process makes its own when it first needs it.

    One that was made before a fork may be held for ever by a thread that the child does not have. And one that was
    made before gevent patches the process, which under `gunicorn --preload` is after the fork, stops every greenlet
    of it as soon as one waits.
    """

    def __init__(self) -> None:
        self._by_process: dict[int, threading.Lock] = {}

    def __enter__(self) -> None:
        self.mine().acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.mine().release()

    def mine(self) -> threading.Lock:
        """The lock itself, in this process."""
        process = os.getpid()
        found = self._by_process.get(process)
        return found or self._by_process.setdefault(process, threading.Lock())

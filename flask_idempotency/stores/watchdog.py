"""Cuts connections whose server does not answer in time, for drivers that would wait for ever."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..engine.process_lock import ProcessLock

#: Seconds between two looks at who waits.
_LOOK_EVERY = 0.2


class Watchdog:
    """One thread per process, started when it is first needed, that shuts down the sockets of those who wait too long.

    The driver then finds its connection broken, as if the server had gone.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._waiting: set[_Watched] = set()
        self._thread: threading.Thread | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_afresh)

    @contextmanager
    def bound(self, descriptor: Callable[[], int], seconds: float) -> Iterator[None]:
        """Let what happens on the socket take so many seconds at most.

        `descriptor` is asked for the socket only when it must be cut, and raises where it was closed: its number may
        be another's by then.
        """
        watched = _Watched(descriptor, time.monotonic() + seconds)
        with self._lock:
            self._waiting.add(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="idempotency-watchdog", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._waiting.discard(watched)

    def _begin_afresh(self) -> None:
        self._waiting = set()
        self._thread = None

    def _run(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY)
            now = time.monotonic()
            with self._lock:  # who is done with the socket waits here before others can use it
                for watched in [each for each in self._waiting if each.deadline <= now]:
                    self._waiting.discard(watched)
                    _cut(watched.descriptor)


class _Watched:
    __slots__ = ("deadline", "descriptor")

    def __init__(self, descriptor: Callable[[], int], deadline: float) -> None:
        self.descriptor = descriptor
        self.deadline = deadline


def _cut(descriptor: Callable[[], int]) -> None:
    # Whatever the driver raises for a connection that went by itself: this thread must outlive it.
    with suppress(Exception), socket.socket(fileno=os.dup(descriptor())) as twin:
        twin.shutdown(socket.SHUT_RDWR)


#: The watchdog of this process.
watchdog = Watchdog()

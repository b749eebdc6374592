"""Cuts connections whose server does not answer in time, for drivers that would wait for ever."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ..engine.forks import call_in_child
from ..engine.process_lock import ProcessLock

#: Seconds between two looks at who waits.
_LOOK_EVERY = 0.2


class Watchdog:
    """One thread per process, started when it is first needed, that shuts down the sockets of those who wait too long.

    The driver then finds its connection broken, as if the server had gone.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock()
        # Put in and taken out in one step each, so that those who are served in time need no lock. Whoever takes out
        # what was put in, the thread or who waited, has the socket.
        self._waiting: dict[object, tuple[float, Callable[[], int]]] = {}
        self._thread: threading.Thread | None = None
        call_in_child(self._begin_afresh)

    def bound(self, descriptor: Callable[[], int], seconds: float) -> "_Bound":
        """A context in which what happens on the socket takes so many seconds at most.

        `descriptor` is asked for the socket only when it must be cut, and raises where it was closed: its number may
        be another's by then.
        """
        return _Bound(self, descriptor, seconds)

    def watch(self, descriptor: Callable[[], int], deadline: float) -> object:
        """Cut the socket at that moment of the monotonic clock, unless what is returned is let go of before.

        Each call has one of its own: the thread may have seen an earlier call on the same socket run late.
        """
        waiting = object()
        self._waiting[waiting] = deadline, descriptor
        if self._thread is None:
            self._start()
        return waiting

    def let_go(self, waiting: object) -> None:
        """Return once the socket of `waiting` will not be cut any more."""
        if self._waiting.pop(waiting, None) is None:
            with self._lock:  # it is being cut: others must not use the socket before that is done
                pass

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="idempotency-watchdog", daemon=True)
                self._thread.start()

    def _begin_afresh(self) -> None:
        self._waiting = {}
        self._thread = None

    def _run(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY)
            now = time.monotonic()
            for waiting, (deadline, descriptor) in self._waiting.copy().items():
                if deadline <= now:
                    with self._lock:
                        if self._waiting.pop(waiting, None) is not None:
                            _cut(descriptor)


class _Bound:
    __slots__ = ("_descriptor", "_seconds", "_waiting", "_watchdog")

    def __init__(self, watchdog: Watchdog, descriptor: Callable[[], int], seconds: float) -> None:
        self._watchdog = watchdog
        self._descriptor = descriptor
        self._seconds = seconds

    def __enter__(self) -> None:
        self._waiting = self._watchdog.watch(self._descriptor, time.monotonic() + self._seconds)

    def __exit__(self, *_: object) -> None:
        self._watchdog.let_go(self._waiting)


def _cut(descriptor: Callable[[], int]) -> None:
    # Whatever the driver raises for a connection that went by itself: this thread must outlive it.
    with suppress(Exception), socket.socket(fileno=os.dup(number := descriptor())) as twin:
        if descriptor() == number:  # else its driver closed it just now, and the twin may be of somebody else's
            twin.shutdown(socket.SHUT_RDWR)


#: The watchdog of this process.
watchdog = Watchdog()

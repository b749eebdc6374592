"""Where a concurrent repeat waits for the first request to be done."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .forks import call_in_child
from .process_lock import ProcessLock

#: How long a waiter sleeps between two looks at the store, in seconds: the first, and the longest. A completion in
#: the same process wakes it at once; the looks are for completions elsewhere.
FIRST_LOOK, LONGEST_LOOK = 0.01, 0.05


class WaitingRoom:
    """A bounded number of seats for requests that wait, and the bell that wakes them.

    A waiting request occupies a worker thread; the bound keeps the others free to serve.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._empty()
        call_in_child(self._empty)

    def _empty(self) -> None:
        # The threads that wait are not in a child.
        #: The bells of those who wait, by the record that they wait for.
        self.bells: dict[bytes, list[threading.Event]] = {}
        self._seated = 0

    @contextmanager
    def seat(self, record_id: bytes, *, seats: int) -> Iterator[threading.Event | None]:
        """A seat for one who waits for this record: the bell that will ring, or None where all `seats` are taken."""
        bell = self._sit_down(record_id, seats)
        try:
            yield bell
        finally:
            if bell is not None:
                self._stand_up(record_id, bell)

    def ring(self, record_id: bytes) -> None:
        """Wake all who wait for this record: it was completed or released."""
        for bell in self.bells.get(record_id, ()):
            bell.set()

    def _sit_down(self, record_id: bytes, seats: int) -> threading.Event | None:
        with self._lock:
            if self._seated >= seats:
                return None
            self._seated += 1
            bell = threading.Event()
            # A new list, since `ring` reads without the lock.
            self.bells[record_id] = [*self.bells.get(record_id, ()), bell]
            return bell

    def _stand_up(self, record_id: bytes, bell: threading.Event) -> None:
        with self._lock:
            self._seated -= 1
            others = [other for other in self.bells[record_id] if other is not bell]
            if others:
                self.bells[record_id] = others
            else:
                del self.bells[record_id]


#: The waiting room of this process, whose threads all its applications share.
waiting_room = WaitingRoom()

"""What a process has seen of a store's being away, and how long it takes over nothing after it."""

import os
import time
from weakref import WeakKeyDictionary

from .records import Claim, RecordKey
from .store import Store, StoreUnavailable


class Outage:
    """The outages of one store, as this process sees them.

    Others may have answers in hand that they could not store: the work under a claim that lapsed meanwhile may be done.
    So once the store can be written again, they have a third of a lease to do so, before anybody takes over.
    """

    __slots__ = ("_calm_until", "_failing", "seen")

    def __init__(self) -> None:
        #: Whether there is anything to heed. All that the usual request asks.
        self.seen = False
        self._failing = False
        self._calm_until = 0.0

    def failed(self) -> None:
        """The store could not be reached."""
        self.seen = self._failing = True

    def wrote(self, lease: float) -> None:
        """The store was written. That it was read means nothing: a disk may be full, or the file locked."""
        if self._failing:
            self._failing = False
            self._calm_until = max(self._calm_until, time.monotonic() + lease / 3)

    def holds_back(self) -> bool:
        """Whether lapsed claims are to be left alone now."""
        if self._failing or time.monotonic() < self._calm_until:
            return True
        self.seen = False
        return False

    def look_for_its_end(self, store: Store, lease: float) -> None:
        """Where nothing was written since it failed, write a record that is nobody's."""
        if not self._failing:
            return
        nobodys = Claim(RecordKey(os.urandom(16)), os.urandom(16), os.urandom(16))
        try:
            store.complete(nobodys, None, retention=lease)
        except StoreUnavailable:
            return
        self.wrote(lease)

    def calm_for(self) -> float:
        """Seconds after which they may be taken over, where nothing fails again."""
        return max(0.0, self._calm_until - time.monotonic())


_by_store: WeakKeyDictionary[Store, Outage] = WeakKeyDictionary()


def outage_of(store: Store) -> Outage:
    """What is known of this store's outages; the same object for all who use it."""
    return _by_store.setdefault(store, Outage())

"""What happened on the server's side of each run, for the page to show."""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

#: The side of the page whose browser sends keys, and the one whose browser does not.
SIDES = ("keyed", "unkeyed")

#: How much is remembered: a page that was left open, or a client gone wild, must not fill the memory.
_MOST_RUNS, _MOST_EVENTS = 100, 400


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one attempt. `at` counts milliseconds since 1970, as a browser's clock does."""

    at: int
    side: str
    attempt: int
    what: str
    detail: int | None = None


@dataclass(slots=True)
class Run:
    """One payment on both sides of the page."""

    events: list[Event] = field(default_factory=list)
    working: int = 0  # requests that the server has not finished with
    moved: set[str] = field(default_factory=set)  # transfers that were seen


class Timeline:
    """The latest runs, by names that their pages made up. It outlives no process, and other processes do not see it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def open(self, name: str) -> None:
        """Begin a run, or go on with it."""
        with self._lock:
            self._runs.setdefault(name, Run())
            while len(self._runs) > _MOST_RUNS:
                self._runs.popitem(last=False)

    def knows(self, name: str) -> bool:
        """Whether there is such a run."""
        return name in self._runs

    def tell(self, name: str, side: str, attempt: int, what: str, detail: int | None = None) -> None:
        """Note what happened."""
        with self._lock:
            run = self._runs.get(name)
            if run is not None and len(run.events) < _MOST_EVENTS:
                run.events.append(Event(int(time.time() * 1000), side, attempt, what, detail))

    def is_new(self, name: str, transfer: str) -> bool:
        """Whether this transfer of money was not seen before."""
        with self._lock:
            run = self._runs.get(name)
            if run is None or transfer in run.moved:
                return False
            run.moved.add(transfer)
            return True

    def count(self, name: str, change: int) -> None:
        """Note that the server began (1) or finished (-1) a request."""
        with self._lock:
            run = self._runs.get(name)
            if run is not None:
                run.working += change

    def of(self, name: str) -> tuple[list[Event], int]:
        """The events of a run, and how many requests of it the server is at."""
        with self._lock:
            run = self._runs.get(name, Run())
            return list(run.events), run.working

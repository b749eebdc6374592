"""What the library has set itself to reach, and whether this run did."""

from collections.abc import Iterator
from dataclasses import dataclass

from .rounds import Row
from .subjects import MEMORY, POSTGRESQL, SQLITE, SQLITE_FAST, VALKEY
from .workload import Kind


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target: what was asked, what was measured (None: it did not run)."""

    what: str
    least: float
    measured: float | None

    @property
    def reached(self) -> bool:
        return self.measured is not None and self.measured >= self.least


#: Front end, store, kind, and the least fraction of the bare handler's speed.
_FRACTIONS = (
    ("hooks", MEMORY, Kind.FIRST, 0.75),
    ("hooks", MEMORY, Kind.REPLAY, 1.1),
    ("hooks", SQLITE, Kind.REPLAY, 1.0),
    ("hooks", SQLITE_FAST, Kind.FIRST, 0.50),
    ("hooks", SQLITE_FAST, Kind.REPLAY, 1.0),
    ("middleware", MEMORY, Kind.FIRST, 0.75),
    ("middleware", MEMORY, Kind.REPLAY, 10.0),
    ("middleware", SQLITE_FAST, Kind.FIRST, 0.50),
    ("middleware", SQLITE_FAST, Kind.REPLAY, 5.0),
    ("hooks", MEMORY, Kind.NO_KEY, 0.97),
    ("hooks", MEMORY, Kind.GET, 0.97),
    ("decorator", MEMORY, Kind.NO_KEY, 0.97),
    ("decorator", MEMORY, Kind.GET, 0.97),
    ("middleware", MEMORY, Kind.NO_KEY, 0.97),
    ("middleware", MEMORY, Kind.GET, 0.97),
)

#: Front end, store, kind, the other row of the same run (on the same store), and how many times as fast as that.
_TIMES = (
    ("hooks", SQLITE, Kind.FIRST, "one sync, in Flask's hooks", 0.75),
    ("middleware", SQLITE, Kind.FIRST, "one sync", 0.75),
    ("middleware", VALKEY, Kind.FIRST, "redis-py, SET NX GET", 0.85),
    ("middleware", VALKEY, Kind.REPLAY, "redis-py, SET NX GET", 0.85),
    ("hooks", POSTGRESQL, Kind.FIRST, "idemkit", 2.5),
    ("hooks", POSTGRESQL, Kind.REPLAY, "idemkit", 3.0),
    ("middleware", POSTGRESQL, Kind.FIRST, "idemkit", 2.5),
    ("middleware", POSTGRESQL, Kind.REPLAY, "idemkit", 3.0),
)


def verdicts(rows: list[Row]) -> Iterator[Verdict]:
    """Each target, against these rows."""
    fractions = {
        (row.subject.name, row.subject.store, kind): cell.fraction
        for row in rows
        if row.trouble is None
        for kind, cell in row.cells.items()
    }
    for front_end, store, kind, least in _FRACTIONS:
        yield Verdict(f"{front_end}, {store}, {kind}", least, fractions.get((front_end, store, kind)))
    for front_end, store, kind, other, least in _TIMES:
        ours, theirs = fractions.get((front_end, store, kind)), fractions.get((other, store, kind))
        times = ours / theirs if ours and theirs else None
        yield Verdict(f"{front_end}, {store}, {kind}: times that of {other}", least, times)

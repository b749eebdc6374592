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
    ("hooks", MEMORY, Kind.FIRST, 0.70),
    ("hooks", MEMORY, Kind.REPLAY, 1.0),
    ("hooks", SQLITE, Kind.FIRST, 0.30),
    ("hooks", SQLITE, Kind.REPLAY, 1.0),
    ("hooks", SQLITE_FAST, Kind.FIRST, 0.50),
    ("hooks", SQLITE_FAST, Kind.REPLAY, 1.0),
    ("middleware", MEMORY, Kind.FIRST, 0.70),
    ("middleware", MEMORY, Kind.REPLAY, 6.0),
    ("middleware", SQLITE, Kind.FIRST, 0.30),
    ("middleware", SQLITE, Kind.REPLAY, 4.0),
    ("middleware", SQLITE_FAST, Kind.FIRST, 0.50),
    ("middleware", SQLITE_FAST, Kind.REPLAY, 4.0),
    ("middleware", VALKEY, Kind.FIRST, 0.28),
    ("middleware", VALKEY, Kind.REPLAY, 0.75),
    ("hooks", MEMORY, Kind.NO_KEY, 0.97),
    ("hooks", MEMORY, Kind.GET, 0.97),
    ("middleware", MEMORY, Kind.NO_KEY, 0.97),
    ("middleware", MEMORY, Kind.GET, 0.97),
)

#: On PostgreSQL, how many times as fast as idemkit.
_TIMES_IDEMKIT = ((Kind.FIRST, 2.5), (Kind.REPLAY, 3.0))


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
    for kind, least in _TIMES_IDEMKIT:
        theirs = fractions.get(("idemkit", POSTGRESQL, kind))
        for front_end in ("hooks", "middleware"):
            ours = fractions.get((front_end, POSTGRESQL, kind))
            times = ours / theirs if ours and theirs else None
            yield Verdict(f"{front_end}, {POSTGRESQL}, {kind}: times idemkit's", least, times)

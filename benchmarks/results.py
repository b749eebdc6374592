"""The figures as a page that people read."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .rounds import Cell, Row
from .subjects import STORES
from .targets import verdicts
from .workload import Kind


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page: its title, and lines of Markdown."""

    title: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((f"## {self.title}", "", *self.lines, ""))


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    head = list(head)
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(str(value) for value in row) + " |"


def side_by_side(rows: list[Row], bare: float, *, rounds: int, size: int) -> Section:
    """Every subject's requests per second, as a fraction of the bare handler's."""
    in_order = sorted(rows, key=lambda row: STORES.index(row.subject.store))
    lines = [
        f"Requests per second as a fraction of the same application's without any of this ({bare:,.0f} a second: JSON "
        "in, JSON out, one thread, WSGI called directly). "
        f"Each figure is the median of {rounds} rounds of {size} requests, in brackets the quartiles; every subject is "
        "in every round, and each block of requests stands beside one of the bare handler.",
        "",
        *table(("store", "", *Kind), ((row.subject.store, _name(row), *_cells(row)) for row in in_order)),
        "",
        "What each row gives:",
        "",
        *table(
            ("store", "", "an answered completion survives", "what is checked"),
            dict.fromkeys(
                (row.subject.store, _giver(row), row.subject.durability, row.subject.checks) for row in in_order
            ),
        ),
    ]
    return Section("Side by side", tuple(lines))


def targets(rows: list[Row]) -> Section:
    """What was to be reached."""
    found = list(verdicts(rows))
    return Section(
        "Targets",
        tuple(
            table(
                ("", "at least", "measured", ""),
                (
                    (
                        verdict.what,
                        f"{verdict.least:g}",
                        "did not run" if verdict.measured is None else f"{verdict.measured:.2f}",
                        "reached" if verdict.reached else "**missed**",
                    )
                    for verdict in found
                ),
            )
        ),
    )


def _name(row: Row) -> str:
    name = row.subject.name
    return {"ours": f"**{name}**", "floor": f"*floor: {name}*"}.get(row.subject.group, name)


def _giver(row: Row) -> str:
    return "**this library**" if row.subject.group == "ours" else _name(row)


def _cells(row: Row) -> Iterator[str]:
    for kind in Kind:
        if row.trouble is not None:
            yield f"not run: {row.trouble}" if kind is Kind.FIRST else ""
        elif kind not in row.cells:
            yield ""
        else:
            yield _figure(row.cells[kind])


def _figure(cell: Cell) -> str:
    lower, upper = cell.spread
    digits = 2 if cell.fraction < 10 else 1
    return f"{cell.fraction:.{digits}f} ({lower:.{digits}f}–{upper:.{digits}f})"  # noqa: RUF001

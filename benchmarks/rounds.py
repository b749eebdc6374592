"""Interleaved rounds: every subject in every round, each block of requests beside one of the bare handler."""

import gc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

from .servers import Servers
from .subjects import Built, Subject
from .workload import Kind, Orders, Requests, WSGIApp, new_keys, serve


@dataclass(slots=True)
class Cell:
    """What one subject did with one kind of request, in each round."""

    fractions: list[float] = field(default_factory=list)  # of the bare handler's requests per second, just before
    rates: list[float] = field(default_factory=list)  # requests per second

    @property
    def fraction(self) -> float:
        """The middle of the rounds."""
        return median(self.fractions)

    @property
    def rate(self) -> float:
        """The middle of the rounds, in requests per second."""
        return median(self.rates)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of the rounds."""
        lower, _, upper = quantiles(self.fractions, n=4)
        return lower, upper


@dataclass(slots=True)
class Row:
    """One subject's cells; or why it could not run."""

    subject: Subject
    cells: dict[Kind, Cell] = field(default_factory=dict)
    trouble: str | None = None


class Wrong(Exception):
    """A subject that answered, but not as it should: its speed says nothing."""


def measure(subjects: Iterable[Subject], servers: Servers, *, rounds: int, size: int) -> tuple[list[Row], list[float]]:
    """Time `rounds` blocks of `size` requests of each kind; the rows, and the bare handler's requests per second."""
    requests, bare = Requests(), Orders().route()
    rows, ready = [], []
    for subject in subjects:
        row = Row(subject, {kind: Cell() for kind in subject.kinds})
        rows.append(row)
        try:
            built = subject.build(servers)
            _warm_up(built, requests, rounds * size)
        except Exception as error:  # noqa: BLE001 - whatever keeps a subject from running is told in its row
            row.trouble = f"{type(error).__name__}: {error}".partition("\n")[0]
            continue
        ready.append((row, built))
    for kind in (Kind.NO_KEY, Kind.GET):
        serve(bare.flask.wsgi_app, requests.of(kind, new_keys(1000)))
    speeds: list[float] = []
    _settle()
    for number in range(rounds):
        turned = ready[number % max(1, len(ready)) :] + ready[: number % max(1, len(ready))]
        for row, built in turned if number % 2 else reversed(turned):
            keys = new_keys(size)
            for kind in row.subject.kinds:
                _block(row, built, kind, keys, requests, bare.flask.wsgi_app, speeds)
            built.forget()
    for _, built in ready:
        built.close()
    return rows, speeds


def _warm_up(built: Built, requests: Requests, count: int) -> None:
    """As many as will be measured: so that files, pages and caches have their size before the clock runs."""
    keys = new_keys(count)
    for kind in (Kind.FIRST, Kind.REPLAY):
        _check(kind, built, requests, keys)
    built.forget()


def _check(kind: Kind, built: Built, requests: Requests, keys: list[str]) -> float:
    before = built.orders.runs
    seconds, heads = serve(built.app, requests.of(kind, keys))
    ran = built.orders.runs - before
    expected = 0 if kind is Kind.REPLAY else len(keys)
    status = "200 OK" if kind is Kind.GET else "201 CREATED"
    answered = {head.upper() for head in heads}
    if ran != expected or len(heads) != len(keys) or answered != {status}:
        raise Wrong(
            f"{kind}: {ran} of {len(keys)} ran and {sorted(answered)} was answered, not {expected} and {status}"
        )
    return seconds


def _block(
    row: Row, built: Built, kind: Kind, keys: Sequence[str], requests: Requests, bare: WSGIApp, speeds: list[float]
) -> None:
    gc.collect()  # between the blocks; within them it may run, as in production
    plain = Kind.GET if kind is Kind.GET else Kind.NO_KEY
    bare_seconds, _ = serve(bare, requests.of(plain, list(keys)))
    seconds = _check(kind, built, requests, list(keys))
    cell = row.cells[kind]
    cell.fractions.append(bare_seconds / seconds)
    cell.rates.append(len(keys) / seconds)
    if plain is Kind.NO_KEY:
        speeds.append(len(keys) / bare_seconds)


def _settle() -> None:
    gc.collect()
    gc.freeze()  # what lives now is not looked at in every collection between the blocks

"""Under load: fresh keys on one SQLite file, by many threads and by many processes."""

from pathlib import Path

from .contention import Measured, measure
from .percentiles import milliseconds, percentile
from .results import Section, table

_SHAPES = ((1, 1), (1, 8), (4, 8), (1, 16))


def run(folder: Path, *, quick: bool) -> Section:
    """Each shape, with the durable store and with the fast one."""
    seconds = 0.7 if quick else 4.0
    rows = []
    for durable in (True, False):
        alone = None
        for processes, threads in _SHAPES:
            measured = measure(
                processes=processes, threads=threads, seconds=seconds, durable=durable, folder=str(folder)
            )
            took, errors = _requests(measured), sum(process.errors.total() for process in measured)
            rate = len(took) / seconds
            if (processes, threads) == (1, 8):
                alone = rate
            p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
            rows.append(
                (
                    "durable" if durable else "fast",
                    f"{processes} × {threads}",  # noqa: RUF001
                    f"{rate:,.0f}",
                    f"{rate / alone:.2f}" if alone else "",
                    milliseconds(p50),
                    milliseconds(p99),
                    milliseconds(max(took, default=float("nan"))),
                    f"{p99 / p50:.1f}",
                    errors,
                )
            )
    head = ("store", "processes × threads", "requests/s", "of 1 × 8", "p50 ms", "p99 ms", "max ms", "p99/p50", "errors")  # noqa: RUF001
    return Section(
        "Contention",
        (
            "Claim and completion of fresh keys on one SQLite file, without an application around them. To reach: no "
            "error, 4 × 8 at least as fast as 1 × 8, p99 at most 10 × p50.",  # noqa: RUF001
            "",
            *table(head, rows),
        ),
    )


def _requests(measured: list[Measured]) -> list[float]:
    return [
        claim + completion
        for process in measured
        for claim, completion in zip(process.claims, process.completions, strict=True)
    ]

"""What `python -m benchmarks` does."""

import argparse
import datetime
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

from . import load_contention, load_hot_key, load_purge, load_scale
from .floors import floors
from .machine import describe
from .peers import peers
from .plot import draw
from .results import Section, side_by_side, targets
from .rounds import Row, measure
from .servers import Servers, started
from .subjects import ours

_SIDE_BY_SIDE = "side-by-side"

#: The parts that measure our own stores under load, in the order of the page.
_LOADS: dict[str, Callable[[Servers, bool], Section]] = {
    "contention": lambda servers, quick: load_contention.run(servers.folder, quick=quick),
    "scale": lambda servers, quick: load_scale.run(servers.folder, quick=quick),
    "purge": lambda servers, quick: load_purge.run(servers.folder, quick=quick),
    "hot-key": lambda servers, quick: load_hot_key.run(servers, quick=quick),
}

_PARTS = (_SIDE_BY_SIDE, *_LOADS)


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that were asked for, print them, and write the page where all of them were."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(_PARTS)}; all, unless given")
    parser.add_argument("--quick", action="store_true", help="to see that it works, not how fast: under a minute")
    parser.add_argument("--output", type=Path, help="write RESULTS.md and the plot here (a whole run: benchmarks/)")
    parser.add_argument("--rounds", type=int, help="rounds of the side-by-side part")
    options = parser.parse_args(arguments)
    parts = options.parts or list(_PARTS)
    unknown = set(parts) - set(_PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    output = options.output
    if output is None and not options.quick and set(parts) == set(_PARTS):
        output = Path(__file__).parent
    warnings.simplefilter("ignore")
    sections: list[Section] = []
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as made, started(Path(made)) as servers:
        machine = list(describe(servers.folder))
        for part in (part for part in _PARTS if part in parts):
            print(f"{part} …", file=sys.stderr, flush=True)
            if part == _SIDE_BY_SIDE:
                rounds, size = options.rounds or (5 if options.quick else 30), 20 if options.quick else 50
                subjects = [*ours(), *peers(), *floors()]
                rows, speeds = measure(subjects, servers, rounds=rounds, size=size)
                sections += (side_by_side(rows, median(speeds), rounds=rounds, size=size), targets(rows))
            else:
                sections.append(_LOADS[part](servers, options.quick))
    page = _page(machine, sections, arguments)
    print(page)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "RESULTS.md").write_text(page)
        if rows:
            draw(rows, output)
    return 0


def _page(machine: list[str], sections: list[Section], arguments: list[str] | None) -> str:
    command = " ".join(["python -m benchmarks", *(sys.argv[1:] if arguments is None else arguments)])
    head = [
        "# Results",
        "",
        f"Taken on {datetime.datetime.now(datetime.UTC).date()} with `{command}` (`pip install -e '.[bench]'`, or "
        "`make bench`).",
        "",
        *(f"- {line}" for line in machine),
        "",
        "![How fast each is](results.svg)",
        "",
    ]
    return "\n".join(head) + "\n" + "\n".join(map(str, sections))

"""One subject, one kind of request, over and over: for a profiler to look at.

    py-spy record --nonblocking --output flame.svg -- python -m benchmarks.hot_path hooks memory first
    valgrind --tool=callgrind python -m benchmarks.hot_path hooks memory replay --blocks 5

Prints the microseconds of a request: the fastest block, and the middle one.
"""

import argparse
import gc
import tempfile
from pathlib import Path
from statistics import median

from .servers import Servers, Unavailable, started
from .subjects import MEMORY, SQLITE, SQLITE_FAST, STORES, Built, Subject, ours
from .workload import Kind, Orders, Requests, new_keys, serve

_SIZE = 100


def main() -> None:
    """Serve the requests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("front_end", choices=["hooks", "decorator", "middleware", "bare"])
    parser.add_argument("store", choices=STORES)
    parser.add_argument("kind", type=Kind, choices=list(Kind))
    parser.add_argument("--blocks", type=int, default=100, help=f"of {_SIZE} requests each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as made:
        if options.store in (MEMORY, SQLITE, SQLITE_FAST):
            nowhere = Unavailable("it was not started")
            _report(_measure(options, Servers(Path(made), nowhere, nowhere)))
        else:
            with started(Path(made)) as servers:
                _report(_measure(options, servers))


def _measure(options: argparse.Namespace, servers: Servers) -> list[float]:
    requests = Requests()
    kinds: list[Kind] = [options.kind]
    if options.front_end == "bare":
        orders = Orders().route()
        built = Built(orders, orders.flask.wsgi_app)
    else:
        built = _find(options).build(servers)
        if options.kind is Kind.REPLAY:
            kinds.insert(0, Kind.FIRST)
    taken: list[float] = []
    gc.collect()
    gc.freeze()  # what lives now is not looked at in every collection between the blocks
    for _ in range(options.blocks):
        keys = new_keys(_SIZE)
        for kind in kinds:
            gc.collect()
            seconds, _ = serve(built.app, requests.of(kind, keys))
            if kind is options.kind:
                taken.append(seconds / _SIZE)
        built.forget()
    return taken


def _find(options: argparse.Namespace) -> Subject:
    return next(subject for subject in ours() if (subject.name, subject.store) == (options.front_end, options.store))


def _report(taken: list[float]) -> None:
    print(f"{min(taken) * 1e6:.1f} µs at best, {median(taken) * 1e6:.1f} µs in the middle")


if __name__ == "__main__":
    main()

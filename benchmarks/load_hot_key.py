"""Under load: 64 clients ask for one key, first while its request is in flight, then once it is done."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from flask_idempotency import Policy
from flask_idempotency.engine.store import Store
from flask_idempotency.stores import MemoryStore, SQLiteStore

from .percentiles import milliseconds, percentile
from .results import Section, table
from .servers import Servers, Unavailable
from .subjects import MEMORY, POSTGRESQL, SQLITE, VALKEY, surround
from .workload import Kind, Orders, Requests, WSGIApp, new_keys, serve

_CLIENTS = 64


class _Slow(Orders):
    """Its view waits where it is told to, so that a request can be in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go_on = threading.Event(), threading.Event()

    def create(self) -> object:
        self.entered.set()
        assert self.go_on.wait(120)
        return super().create()


def run(servers: Servers, *, quick: bool) -> Section:
    """Both front ends on each store."""
    each = 10 if quick else 60
    rows: list[tuple[object, ...]] = []
    for name, store in _stores(servers):
        if not isinstance(store, Unavailable | ImportError):
            for front_end in ("hooks", "middleware"):
                rows.append((name, front_end, *_figures(front_end, store, each)))
            store.close()
        else:
            rows.append((name, f"not run: {store}", *[""] * 5))
    head = ("store", "", "refusals/s", "replays/s", "a refusal, of a replay's cost", "refusal p99 ms", "replay p99 ms")
    return Section(
        "Hot key",
        (
            f"{_CLIENTS} threads of one process ask for one key, {each} times each: first while its request is in "
            "flight, then once it is done. To reach: a refusal costs less than a replay.",
            "",
            *table(head, rows),
        ),
    )


def _stores(servers: Servers) -> Iterator[tuple[str, Store | Unavailable | ImportError]]:
    yield MEMORY, MemoryStore()
    yield SQLITE, SQLiteStore(Path(servers.folder) / "hot-key.db")
    try:
        from flask_idempotency.stores.redis import RedisStore

        yield VALKEY, RedisStore.from_url(servers.valkey_url())
    except (Unavailable, ImportError) as error:
        yield VALKEY, error
    try:
        from flask_idempotency.stores.sqlalchemy import SQLAlchemyStore

        yield POSTGRESQL, SQLAlchemyStore(servers.postgresql_url())
    except (Unavailable, ImportError) as error:
        yield POSTGRESQL, error


def _figures(front_end: str, store: Store, each: int) -> Iterator[str]:
    orders = _Slow()
    app: WSGIApp = surround(orders, front_end, store, Policy()).flask.wsgi_app
    requests, (key,) = Requests(), new_keys(1)
    first = threading.Thread(target=serve, args=(app, requests.of(Kind.FIRST, [key])))
    first.start()
    assert orders.entered.wait(30)
    # In turn with each other they cannot be; so each is warmed up first.
    _ask(app, requests, key, 3, "409 CONFLICT")
    refused, refusals = _ask(app, requests, key, each, "409 CONFLICT")
    orders.go_on.set()
    first.join(30)
    _ask(app, requests, key, 3, "201 CREATED")
    replayed, replays = _ask(app, requests, key, each, "201 CREATED")
    assert orders.runs == 1
    yield f"{len(refusals) / refused:,.0f}"
    yield f"{len(replays) / replayed:,.0f}"
    yield f"{refused / len(refusals) / (replayed / len(replays)):.2f}"
    yield milliseconds(percentile(refusals, 0.99))
    yield milliseconds(percentile(replays, 0.99))


def _ask(app: WSGIApp, requests: Requests, key: str, each: int, status: str) -> tuple[float, list[float]]:
    """Have every client ask so often: the seconds for all, and those of each request. All must hear `status`."""
    start = threading.Barrier(_CLIENTS + 1)
    taken: list[float] = []
    heard: set[str] = set()

    def client() -> None:
        ready = [requests.of(Kind.FIRST, [key]) for _ in range(each)]
        start.wait(30)
        for request in ready:
            seconds, heads = serve(app, request)
            taken.append(seconds)
            heard.update(head.upper() for head in heads)

    threads = [threading.Thread(target=client) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    start.wait(30)
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    assert heard == {status}, heard
    return elapsed, taken

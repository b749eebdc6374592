"""What is measured: one application with one way of making it idempotent, on one store."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flask_idempotency import Idempotency, IdempotencyMiddleware, Policy
from flask_idempotency.engine.store import Store
from flask_idempotency.stores import MemoryStore, SQLiteStore

from .servers import Servers
from .workload import Kind, Orders, WSGIApp, new_keys

ALL_KINDS = tuple(Kind)
KEYED = (Kind.FIRST, Kind.REPLAY)

#: The stores, in the order of the table.
MEMORY, SQLITE, SQLITE_FAST = "memory", "SQLite", "SQLite, fast"
VALKEY, POSTGRESQL = "Valkey", "PostgreSQL"
STORES = (MEMORY, SQLITE, SQLITE_FAST, VALKEY, POSTGRESQL)


@dataclass(frozen=True, slots=True)
class Built:
    """A subject that is ready. `forget` drops its records, where memory would grow without end; `close` ends it."""

    orders: Orders
    app: WSGIApp
    forget: Callable[[], object] = lambda: None
    close: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class Subject:
    """One row of the table. `durability`: what of an answer survives; `checks`: what is looked at besides the key."""

    group: str  # "ours", "peer" or "floor"
    name: str
    store: str
    durability: str
    checks: str
    build: Callable[[Servers], Built]
    kinds: tuple[Kind, ...] = KEYED


_CHECKS = "key syntax, fingerprint, principal, fencing, lease with heartbeat, expiry swept"


def ours() -> Iterator[Subject]:
    """Each front end on each store."""
    for store, durability, make in _stores():
        for front_end in ("hooks", "decorator", "middleware"):
            yield Subject("ours", front_end, store, durability, _CHECKS, _around(front_end, make), ALL_KINDS)


def _stores() -> Iterator[tuple[str, str, Callable[[Servers], Store]]]:
    yield MEMORY, "none: ends with the process", lambda servers: MemoryStore()
    yield SQLITE, "power loss: the completion is synced", lambda servers: SQLiteStore(_file(servers))
    yield SQLITE_FAST, "process crash", lambda servers: SQLiteStore(_file(servers), durable=False)
    yield VALKEY, "the server's: here memory only", _redis_store
    yield POSTGRESQL, "power loss: the server syncs", _sqlalchemy_store


def _redis_store(servers: Servers) -> Store:
    from flask_idempotency.stores.redis import RedisStore

    return RedisStore.from_url(servers.valkey_url())


def _sqlalchemy_store(servers: Servers) -> Store:
    from flask_idempotency.stores.sqlalchemy import SQLAlchemyStore

    return SQLAlchemyStore(servers.postgresql_url())


def _file(servers: Servers) -> Any:
    return servers.folder / f"{new_keys(1)[0]}.db"


def _around(front_end: str, make: Callable[[Servers], Store]) -> Callable[[Servers], Built]:
    def build(servers: Servers) -> Built:
        store = make(servers)
        orders = surround(Orders(), front_end, store, Policy(required=False))
        # The files stay: they use their free pages again by themselves.
        forget = store.close if isinstance(store, MemoryStore) else lambda: None
        return Built(orders, orders.flask.wsgi_app, forget, store.close)

    return build


def surround(orders: Orders, front_end: str, store: Store, policy: Policy) -> Orders:
    """The application with one of our front ends around it."""
    if front_end == "middleware":
        orders.route().flask.wsgi_app = IdempotencyMiddleware(  # type: ignore[method-assign]
            orders.flask.wsgi_app, store=store, policy=policy
        )
        return orders
    idempotency = Idempotency(orders.flask, store=store, policy=policy)
    if front_end == "decorator":
        return orders.route(idempotency.view(required=policy.required)(orders.create))
    return orders.route()

"""Other libraries that make a request safe to retry, each as its own documentation uses it, at its best.

Considered and left out: those for Django REST Framework and for ASGI alone (another framework's bare handler would be
the measure), and `pyidempotent`, whose synchronous form starts an event loop for each call. `flask-once`,
`flask-idempotent` and `flask-idempotent2` are from 2015 to 2020 and look before they claim.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from flask import jsonify, request

from .servers import Servers
from .subjects import ALL_KINDS, KEYED, MEMORY, POSTGRESQL, SQLITE, SQLITE_FAST, VALKEY, Built, Subject
from .workload import Orders, new_keys

_IDEMKIT = "fingerprint, fencing, lease; principal not set (its `scope` is optional)"
_SYNCED = "power loss: the server syncs"


def peers() -> Iterator[Subject]:
    """The peers. One that is not installed says so in the table."""
    yield Subject("peer", "idemkit", MEMORY, "none", _IDEMKIT, _idemkit(_idemkit_memory), ALL_KINDS)
    yield Subject("peer", "idemkit", VALKEY, "the server's", _IDEMKIT, _idemkit(_idemkit_redis), ALL_KINDS)
    yield Subject("peer", "idemkit", POSTGRESQL, _SYNCED, _IDEMKIT, _idemkit(_idemkit_postgresql), ALL_KINDS)
    yield Subject("peer", "justonce", SQLITE, "power loss: claim and completion", "payload, lease", _justonce, KEYED)
    once = "payload (RFC 8785), fencing, lease"
    yield Subject("peer", "once-kernel", MEMORY, "none", once, _once(_once_memory), KEYED)
    yield Subject("peer", "once-kernel", SQLITE_FAST, "process crash", once, _once(_once_sqlite), KEYED)
    powertools = "none: with its payload check on, its Redis layer refuses each replay"
    yield Subject("peer", "aws-lambda-powertools", VALKEY, "the server's", powertools, _powertools, KEYED)


def _idemkit(make: Callable[[Servers], tuple[Any, Callable[[], object]]]) -> Callable[[Servers], Built]:
    def build(servers: Servers) -> Built:
        from idemkit import HttpConfig, WSGIIdempotencyMiddleware
        from idemkit.core.sync_bridge import run_sync

        backend, forget = make(servers)
        orders = Orders().route()
        config = HttpConfig(scope_mode="single_tenant")
        app = WSGIIdempotencyMiddleware(orders.flask.wsgi_app, backend=backend, config=config)
        close = (lambda: run_sync(backend.aclose())) if hasattr(backend, "aclose") else (lambda: None)
        return Built(orders, app, forget, close)

    return build


def _idemkit_memory(servers: Servers) -> tuple[Any, Callable[[], object]]:
    from idemkit import InMemoryBackend

    backend = InMemoryBackend()
    return backend, backend._records.clear


def _idemkit_redis(servers: Servers) -> tuple[Any, Callable[[], object]]:
    from idemkit import RedisBackend

    return RedisBackend.from_url(servers.valkey_url()), lambda: None


def _idemkit_postgresql(servers: Servers) -> tuple[Any, Callable[[], object]]:
    from idemkit import PostgresBackend
    from idemkit.backends.postgres import init_pg

    url = servers.postgresql_url("postgresql")
    asyncio.run(init_pg(url))
    return PostgresBackend.from_url(url), lambda: None


def _justonce(servers: Servers) -> Built:
    from justonce import Idempotent, KeyReuseError, OperationInFlightError, idempotent, operation_key
    from justonce.stores import SqliteStore

    orders = Orders()
    engine = Idempotent(SqliteStore(servers.folder / f"{new_keys(1)[0]}.db"))

    @idempotent(key=lambda key, order: operation_key("order", key), payload=lambda key, order: order, engine=engine)
    def place(key: str, order: Any) -> Any:
        return orders.place(order)

    def create() -> Any:
        try:
            return jsonify(place(request.headers["Idempotency-Key"], request.get_json())), 201
        except KeyReuseError:
            return jsonify(error="the key was used for another order"), 422
        except OperationInFlightError:
            return jsonify(error="in progress"), 409

    return Built(orders.route(create), orders.flask.wsgi_app)


def _once(make: Callable[[Servers], tuple[Any, Callable[[], object]]]) -> Callable[[Servers], Built]:
    def build(servers: Servers) -> Built:
        from once import IdempotencyConflict, InProgressError, Once

        store, forget = make(servers)
        orders, kernel = Orders(), Once(store)

        def create() -> Any:
            order = request.get_json()
            try:
                return jsonify(kernel.run(request.headers["Idempotency-Key"], order, lambda: orders.place(order))), 201
            except IdempotencyConflict:
                return jsonify(error="the key was used for another order"), 422
            except InProgressError:
                return jsonify(error="in progress"), 409

        return Built(orders.route(create), orders.flask.wsgi_app, forget)

    return build


def _once_memory(servers: Servers) -> tuple[Any, Callable[[], object]]:
    from once import MemoryStore

    store = MemoryStore()
    return store, store._rows.clear


def _once_sqlite(servers: Servers) -> tuple[Any, Callable[[], object]]:
    from once.sqlite import SqliteStore

    return SqliteStore(str(servers.folder / f"{new_keys(1)[0]}.db")), lambda: None


def _powertools(servers: Servers) -> Built:
    import redis
    from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent_function
    from aws_lambda_powertools.utilities.idempotency.exceptions import IdempotencyAlreadyInProgressError
    from aws_lambda_powertools.utilities.idempotency.persistence.redis import RedisCachePersistenceLayer

    orders = Orders()
    client: Any = redis.Redis.from_url(servers.valkey_url())

    @idempotent_function(  # type: ignore[untyped-decorator]
        data_keyword_argument="asked",
        persistence_store=RedisCachePersistenceLayer(client=client),
        config=IdempotencyConfig(
            event_key_jmespath="key", raise_on_no_idempotency_key=True, expires_after_seconds=86400
        ),
    )
    def place(asked: dict[str, Any]) -> Any:
        return orders.place(asked["order"])

    def create() -> Any:
        asked = {"key": request.headers["Idempotency-Key"], "order": request.get_json()}
        try:
            return jsonify(place(asked=asked)), 201
        except IdempotencyAlreadyInProgressError:
            return jsonify(error="in progress"), 409

    return Built(orders.route(create), orders.flask.wsgi_app)

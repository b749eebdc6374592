"""A database that answers late, twice or not at all: what the client hears, and how often the work runs."""

import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Barrier
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import create_engine, make_url, text

from flask_idempotency import Idempotency, Policy
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import SQLAlchemyStore, sqlalchemy_database
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE, new_record
from tests.proxies import Proxy, Trouble

from .usual import BRIEF, USUAL

TROUBLES = list(Trouble)

LEASE = 30.0

#: What marks the requests of each of the store's calls on the wire. To PostgreSQL they are values alone, in binary: its
#: statements are prepared.
CALLS = {
    "postgresql": {"claim": struct.pack("!d", LEASE), "complete": b'{"run":'},
    "mysql": {"claim": b"INSERT INTO idempotency_records", "complete": b"coalesce("},
}

#: What a new connection to PostgreSQL sends before its first claim.
PREPARATIONS = [b"pg_backend_pid", b"enable_seqscan", b"INSERT INTO idempotency_records"]


@pytest.fixture(params=["postgresql", "mariadb"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlalchemy_database, "PATIENCE", 1)


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    address = make_url(url)
    assert address.host is not None
    assert address.port is not None
    with Proxy((address.host, address.port)) as proxy:
        yield proxy


@pytest.fixture
def store(url: str, proxy: Proxy) -> Iterator[SQLAlchemyStore]:
    address = make_url(url).set(host=proxy.host, port=proxy.port)
    store = SQLAlchemyStore(address.render_as_string(hide_password=False))
    # Each statement once: it is prepared from then on.
    for end in (partial(store.complete, response=RESPONSE, retention=1), partial(store.release, retention=1)):
        claimed: Any = store.claim(new_record(), FINGERPRINT, **BRIEF)
        end(claimed.claim)
    yield store
    proxy.restore()
    store.close()


class Shop:
    """An application whose one view counts its runs."""

    def __init__(self, store: SQLAlchemyStore) -> None:
        self.runs = 0
        self.app = Flask(__name__)
        Idempotency(self.app, store=store, policy=Policy(lease=LEASE))
        self.app.add_url_rule("/", "order", self.order, methods=["POST"])

    def order(self) -> Any:
        self.runs += 1
        return {"run": self.runs}, 201

    def post(self, key: str) -> tuple[int, bool]:
        answer = self.app.test_client().post("/", headers={"Idempotency-Key": key})
        return answer.status_code, "Idempotent-Replayed" in answer.headers


def mark_of(call: str, url: str) -> bytes:
    return CALLS[make_url(url).get_backend_name()][call]


@pytest.mark.parametrize("call", ["claim", "complete"])
@pytest.mark.parametrize("trouble", TROUBLES, ids=[trouble.name for trouble in TROUBLES])
def test_a_call_that_meets_trouble_once_is_sent_again_and_recognises_itself(
    store: SQLAlchemyStore, proxy: Proxy, trouble: Trouble, call: str, idempotency_key: str, url: str
) -> None:
    shop = Shop(store)
    proxy.fail_next(trouble, matching=mark_of(call, url))
    status, replayed = shop.post(idempotency_key)
    proxy.settle()
    assert len(proxy.struck) == 1
    # A server that was slow for as long as anyone waits is not asked again: then the client is.
    assert (status, replayed) in [(201, False), (503, False)]
    if status == 503:
        assert trouble in (Trouble.STALL_REPLY, Trouble.DELAY_REQUEST)
        assert call == "claim"
        assert shop.runs == 0
        assert shop.post(idempotency_key) == (201, False)
    deadline = time.monotonic() + 20
    # While its completion is on its way in the background, it is in progress, or this process knows that it is done.
    while (heard := shop.post(idempotency_key)) in [(409, False), (503, False)]:
        assert time.monotonic() < deadline
    assert heard == (201, True)
    assert shop.runs == 1


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("step", PREPARATIONS)
@pytest.mark.parametrize("trouble", TROUBLES, ids=[trouble.name for trouble in TROUBLES])
def test_a_connection_that_meets_trouble_before_it_serves_is_replaced(
    store: SQLAlchemyStore, proxy: Proxy, trouble: Trouble, step: bytes, idempotency_key: str
) -> None:
    shop = Shop(store)
    assert store._engine is not None
    store._engine.dispose()
    proxy.fail_next(trouble, matching=step)
    answer = shop.post(idempotency_key)
    proxy.settle()
    assert len(proxy.struck) == 1
    if answer == (503, False):
        assert trouble in (Trouble.STALL_REPLY, Trouble.DELAY_REQUEST)
        answer = shop.post(idempotency_key)
    assert answer == (201, False)
    assert shop.post(idempotency_key) == (201, True)
    assert shop.runs == 1


def test_without_the_database_a_request_is_refused_and_then_runs_once(
    store: SQLAlchemyStore, proxy: Proxy, idempotency_key: str
) -> None:
    shop = Shop(store)
    for trouble in (proxy.refuse, proxy.stall):
        trouble()
        assert shop.post(idempotency_key) == (503, False)
        proxy.restore()
    assert shop.runs == 0
    assert [shop.post(idempotency_key) for _ in range(2)] == [(201, False), (201, True)]
    assert shop.runs == 1


def test_a_release_whose_reply_is_lost_is_no_fencing(store: SQLAlchemyStore, proxy: Proxy, url: str) -> None:
    record = new_record()
    claimed: Any = store.claim(record, FINGERPRINT, **USUAL)
    prepared = url.startswith("postgresql")
    proxy.fail_next(Trouble.LOSE_REPLY, matching=claimed.claim.token if prepared else b"'released'")
    assert store.release(claimed.claim, retention=DAY) is True
    assert len(proxy.struck) == 1


def test_no_error_tells_password_parameters_or_body(url: str, proxy: Proxy) -> None:
    address = make_url(url).set(host=proxy.host, port=proxy.port, password="hush")
    store = SQLAlchemyStore(address.render_as_string(hide_password=False))
    proxy.refuse()
    with pytest.raises(StoreUnavailable) as raised:
        store.claim(new_record(), FINGERPRINT, **BRIEF)
    proxy.restore()
    assert "hush" not in str(raised.value)
    assert "hush" not in repr(store)


def test_a_table_that_is_missing_is_an_error_that_refuses(url: str) -> None:
    engine = create_engine(url)
    store = SQLAlchemyStore(engine)
    claimed = store.claim(new_record(), FINGERPRINT, **USUAL)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE idempotency_records RENAME TO elsewhere"))
    try:
        with pytest.raises(StoreUnavailable):
            store.claim(new_record(), FINGERPRINT, **USUAL)
        with pytest.raises(StoreUnavailable):
            store.complete(claimed.claim, RESPONSE, retention=DAY)  # type: ignore[union-attr]
    finally:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO idempotency_records"))
    assert store.complete(claimed.claim, RESPONSE, retention=DAY) is True  # type: ignore[union-attr]
    engine.dispose()


def test_a_pool_that_is_exhausted_is_an_error_that_refuses(url: str) -> None:
    engine = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    store = SQLAlchemyStore(engine)
    store.claim(new_record(), FINGERPRINT, **USUAL)
    with engine.connect(), pytest.raises(StoreUnavailable, match="no connection was free"):
        store.claim(new_record(), FINGERPRINT, **USUAL)
    engine.dispose()


@contextmanager
def session_default(url: str, name: str, value: str) -> Iterator[None]:
    """What sessions that begin from now on find set, as a failover or an administrator leaves it."""
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    postgresql = admin.dialect.name == "postgresql"
    with admin.connect() as connection:
        connection.execute(
            text(f"ALTER ROLE postgres SET {name} = {value}" if postgresql else f"SET GLOBAL {name} = {value}")
        )
        try:
            yield
        finally:
            connection.execute(
                text(f"ALTER ROLE postgres RESET {name}" if postgresql else f"SET GLOBAL {name} = DEFAULT")
            )
    admin.dispose()


def test_a_replica_that_is_read_only_after_a_failover_refuses(postgresql_url: str) -> None:
    SQLAlchemyStore(postgresql_url).claim(new_record(), FINGERPRINT, **BRIEF)
    with session_default(postgresql_url, "default_transaction_read_only", "on"):
        store = SQLAlchemyStore(postgresql_url, create=False)
        shop = Shop(store)
        assert shop.post(new_record().id.hex()) == (503, False)
        assert shop.runs == 0
    store.close()


@pytest.mark.parametrize(
    ("database", "name", "value"),
    [
        ("postgresql", "default_transaction_isolation", "serializable"),
        ("mariadb", "tx_isolation", "'SERIALIZABLE'"),
    ],
)
def test_serialization_failures_and_deadlocks_are_tried_again(
    request: pytest.FixtureRequest, database: str, name: str, value: str
) -> None:
    url = request.getfixturevalue(f"{database}_url")
    with session_default(url, name, value):
        engine = create_engine(url, pool_size=32)
        store = SQLAlchemyStore(engine)
        for _ in range(5):
            record = new_record()
            start = Barrier(32)

            def claim(_: int, record: Any = record, start: Barrier = start) -> Any:
                start.wait(20)
                return store.claim(record, FINGERPRINT, **USUAL)

            with ThreadPoolExecutor(32) as pool:
                outcomes = list(pool.map(claim, range(32)))
            assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Claimed"] + ["InProgress"] * 31
        engine.dispose()

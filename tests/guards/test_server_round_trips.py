"""What each kind of request costs the stores on servers: statements or scripts, and round trips."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from sqlalchemy import Engine, event

from flask_idempotency.engine.store import Store
from flask_idempotency.stores.redis import RedisStore
from flask_idempotency.stores.sqlalchemy import SQLAlchemyStore
from flask_idempotency.stores.sqlalchemy_database import make_engine
from tests.databases import mariadb, postgresql
from tests.stores.redis.servers import Server, running

from .requests import UNTOUCHED, Kind, Read, Shop

#: Round trips, which no kind of request may exceed.
ROUND_TRIPS = {
    Kind.FIRST: 2,
    Kind.REPLAY: 1,
    Kind.REUSED: 1,
    Kind.IN_FLIGHT: 1,
    Kind.FAILED: 2,
    Kind.STREAMED: 3,
    **dict.fromkeys(UNTOUCHED, 0),
}


def prepared(store: Store) -> Shop:
    """A shop whose store is connected, with its table and scripts in place."""
    shop = Shop(store)
    for kind in (Kind.FIRST, Kind.FAILED, Kind.STREAMED):
        shop.cost(kind, Counter)
    return shop


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    server = Server()
    with running(server):
        yield server


@pytest.fixture
def valkey_read(valkey: Server) -> Iterator[Read]:
    """The scripts that were asked for, and how often the server read from a connection (but for these questions)."""
    with valkey.client() as client:
        asked = 0

        def read() -> Counter[str]:
            nonlocal asked
            asked += 1
            told: Any = client.info("everything")
            scripts = told.get("cmdstat_evalsha", {"calls": 0})["calls"]
            return Counter({"scripts": scripts, "round trips": told["total_reads_processed"] - asked})

        yield read


@pytest.mark.parametrize("kind", Kind)
def test_on_valkey_each_decision_is_one_script_and_one_round_trip(
    kind: Kind, valkey: Server, valkey_read: Read
) -> None:
    store = RedisStore.from_url(valkey.url)
    trips = ROUND_TRIPS[kind]
    assert +prepared(store).cost(kind, valkey_read) == +Counter({"scripts": trips, "round trips": trips})
    store.close()


def test_on_valkey_a_sweep_costs_nothing(valkey: Server, valkey_read: Read) -> None:
    store = RedisStore.from_url(valkey.url)
    prepared(store)
    assert Shop(store).sixteen(valkey_read) == {"scripts": 32, "round trips": 32}
    store.close()


class Wire:
    """The messages on which a PostgreSQL client waits for its server, as libpq traces them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "wire"
        self._file: IO[bytes] = self._path.open("ab")

    def tap(self, connection: Any, record: object) -> None:
        connection.pgconn.trace(self._file.fileno())

    def read(self) -> Counter[str]:
        lines = [line.split("\t") for line in self._path.read_text(errors="replace").splitlines()]
        sent = [parts[3:] for parts in lines if len(parts) > 3 and parts[1] == "F"]
        waits = [message for message in sent if message[0] in ("Sync", "Query")]
        named = [
            message for message in sent if message[0] == "Bind" and any("idempotency_" in part for part in message)
        ]
        return Counter({"round trips": len(waits), "statements by name": len(named)})


def count_statements(engine: Engine) -> Read:
    """The statements that the engine sends from now on."""
    sent: Counter[str] = Counter()

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        sent["statements"] += 1

    event.listen(engine, "before_cursor_execute", note)
    return sent.copy


@pytest.fixture(scope="module")
def postgresql_url() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture(scope="module")
def mariadb_url() -> Iterator[str]:
    with mariadb() as url:
        yield url


@pytest.fixture
def engine_on() -> Iterator[Callable[[str], Engine]]:
    """Makes engines as the store itself makes them, and disposes of them."""
    made: list[Engine] = []

    def make(url: str) -> Engine:
        made.append(make_engine(url))
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


@pytest.mark.parametrize("kind", Kind)
def test_on_postgresql_each_decision_is_one_round_trip(
    kind: Kind, postgresql_url: str, engine_on: Callable[[str], Engine], tmp_path: Path
) -> None:
    engine, wire = engine_on(postgresql_url), Wire(tmp_path)
    event.listen(engine, "connect", wire.tap)
    shop = prepared(SQLAlchemyStore(engine))
    for each in Kind:
        shop.cost(each, wire.read)  # from the second time on, its statements are prepared
    trips = ROUND_TRIPS[kind]
    assert +shop.cost(kind, wire.read) == +Counter({"round trips": trips, "statements by name": trips})


@pytest.mark.parametrize("kind", Kind)
def test_on_postgresql_those_who_watch_see_one_statement_for_each_decision(
    kind: Kind, postgresql_url: str, engine_on: Callable[[str], Engine], tmp_path: Path
) -> None:
    engine, wire = engine_on(postgresql_url), Wire(tmp_path)
    event.listen(engine, "connect", wire.tap)
    shop = prepared(SQLAlchemyStore(engine))
    assert wire.read()["round trips"] >= 4  # it does see them
    statements = count_statements(engine)  # from here on, SQLAlchemy itself sends them
    cost = shop.cost(kind, lambda: wire.read() + statements())
    assert cost["statements"] == cost["round trips"] == ROUND_TRIPS[kind]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("database", ["mariadb", "sqlite"])
def test_on_other_databases_each_decision_is_one_statement_or_two(
    kind: Kind, database: str, request: pytest.FixtureRequest, engine_on: Callable[[str], Engine], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'records.db'}" if database == "sqlite" else request.getfixturevalue("mariadb_url")
    engine = engine_on(url)
    shop = prepared(SQLAlchemyStore(engine))
    # SQLite cannot return what stands in a claim's way: it is looked up.
    looked_up = database == "sqlite" and kind in (Kind.REPLAY, Kind.REUSED, Kind.IN_FLIGHT)
    assert shop.cost(kind, count_statements(engine)).total() == ROUND_TRIPS[kind] + looked_up

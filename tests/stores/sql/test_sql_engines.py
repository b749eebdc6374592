"""The contract on engines that applications bring along, at any isolation, and through a pooler."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from flask_idempotency.engine.store import Store
from flask_idempotency.stores import SQLAlchemyStore
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE, new_record

from .moved_time import WithMovedTime
from .pooler import pgbouncer
from .usual import USUAL


class OnAnEngine(WithMovedTime):
    engine: Engine

    def open_store(self) -> Store:
        return SQLAlchemyStore(self.engine)

    def made(self, url: str, **options: Any) -> Iterator[None]:
        self.url = url
        self.engine = create_engine(url, pool_size=20, max_overflow=50, **options)
        yield
        assert self.engine.pool.checkedout() == 0, "a connection did not come back"  # type: ignore[attr-defined]
        self.engine.dispose()


class TestOnPostgreSQLAtSerializable(OnAnEngine):
    @pytest.fixture(autouse=True)
    def on(self, postgresql_url: str) -> Iterator[None]:
        yield from self.made(postgresql_url, isolation_level="SERIALIZABLE")


class TestOnPostgreSQLThatIsSerializableItself(OnAnEngine):
    @pytest.fixture(autouse=True)
    def on(self, postgresql_url: str) -> Iterator[None]:
        options = {"options": "-c default_transaction_isolation=serializable"}
        yield from self.made(postgresql_url, connect_args=options)


class TestOnMariaDBAtItsDefault(OnAnEngine):
    """REPEATABLE READ."""

    @pytest.fixture(autouse=True)
    def on(self, mariadb_url: str) -> Iterator[None]:
        yield from self.made(mariadb_url)


class TestOnMariaDBAtAutocommit(OnAnEngine):
    @pytest.fixture(autouse=True)
    def on(self, mariadb_url: str) -> Iterator[None]:
        yield from self.made(mariadb_url.replace("mysql+", "mariadb+"), isolation_level="AUTOCOMMIT")


@pytest.fixture(scope="module")
def pooler(postgresql_url: str) -> Iterator[str]:
    with pgbouncer(postgresql_url, connections=2) as url:
        yield url.render_as_string(hide_password=False)


class TestThroughAPooler(WithMovedTime):
    """Two connections for everybody: whatever a session had would be another's."""

    @pytest.fixture(autouse=True)
    def on(self, pooler: str) -> None:
        self.url = pooler

    def open_store(self) -> Store:
        return SQLAlchemyStore(self.url)

    def test_nothing_is_left_on_the_connections_of_others(self, store: Store) -> None:
        record = new_record()
        store.complete(self.must_claim(store, record), RESPONSE, retention=DAY)
        self.claim(store, record)
        store.renew([self.must_claim(store, new_record())], lease=60)
        store.purge(limit=10)
        settings = "SELECT name, setting FROM pg_settings WHERE source = 'session'"
        neighbour = create_engine(self.url, connect_args={"prepare_threshold": None}, isolation_level="AUTOCOMMIT")
        for _ in range(4):
            with neighbour.connect() as connection:
                assert connection.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar() == 0
                found = {name for name, _ in connection.execute(text(settings))}
                assert not found - {"application_name", "client_encoding", "DateStyle", "TimeZone"}
        neighbour.dispose()


def isolation(engine: Engine) -> Any:
    with engine.connect() as connection:
        return connection.exec_driver_sql("SELECT @@tx_isolation, @@autocommit").one()


def test_an_engine_of_mariadb_gets_back_the_isolation_that_it_had(mariadb_url: str) -> None:
    engine = create_engine(mariadb_url, pool_size=1, max_overflow=0)
    before = isolation(engine)
    store = SQLAlchemyStore(engine)
    claimed: Any = store.claim(new_record(), FINGERPRINT, **USUAL)
    store.renew([claimed.claim], lease=60)
    store.complete(claimed.claim, RESPONSE, retention=DAY)
    store.purge(limit=10)
    assert isolation(engine) == before == ("REPEATABLE-READ", 0)
    engine.dispose()


@pytest.mark.parametrize("given", ["url", "engine"])
def test_mariadb_itself_counts_what_a_request_costs(mariadb_url: str, given: str) -> None:
    """Questions: whatever crosses the network, COMMIT and ROLLBACK included."""
    store = SQLAlchemyStore(mariadb_url if given == "url" else create_engine(mariadb_url))
    watcher = create_engine(mariadb_url, isolation_level="AUTOCOMMIT")

    with watcher.connect() as watching:

        def questions() -> int:
            return int(watching.exec_driver_sql("SHOW GLOBAL STATUS LIKE 'Questions'").one()[1])

        store.claim(new_record(), FINGERPRINT, **USUAL)
        looking = -questions() + questions()
        before = questions()
        claimed: Any = store.claim(record := new_record(), FINGERPRINT, **USUAL)
        store.complete(claimed.claim, RESPONSE, retention=DAY)
        fresh = questions() - before - looking
        before = questions()
        store.claim(record, FINGERPRINT, **USUAL)
        replay = questions() - before - looking
    # An engine that was handed in: the isolation of one transaction, the statement, COMMIT, and the pool's ROLLBACK.
    assert (fresh, replay) == ((2, 1) if given == "url" else (8, 4))
    store.close()
    watcher.dispose()
    if given == "engine":
        assert store._engine is not None
        store._engine.dispose()


def test_sqlites_memory_is_refused_since_its_connections_see_different_records() -> None:
    for engine in (create_engine("sqlite://"), create_engine("sqlite:///:memory:")):
        with pytest.raises(ValueError, match="MemoryStore"):
            SQLAlchemyStore(engine).claim(new_record(), FINGERPRINT, **USUAL)


@pytest.mark.parametrize(
    ("url", "kind", "says"),
    [
        ("postgresql+psycopg//user:hush@host/db", ValueError, "needs a URL"),
        ("nosuch+psycopg://user:hush@host/db", ValueError, "needs a URL"),
        ("oracle+oracledb://user:hush@host/db", ImportError, "oracledb"),
        ("postgresql+psycopg2://user:hush@host/db", ImportError, r"psycopg2 is missing.*postgresql\+psycopg://"),
        ("mssql+pyodbc://user:hush@host/db", ImportError, "pyodbc"),
    ],
)
def test_a_url_that_cannot_serve_is_refused_where_it_is_written(url: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says) as raised:
        SQLAlchemyStore.from_url(url)
    assert "hush" not in str(raised.value)


def test_a_store_is_known_by_its_place_without_its_password() -> None:
    url = make_url("postgresql+psycopg://user:hush@db.example/shop")
    assert "hush" not in repr(SQLAlchemyStore.from_url(url.render_as_string(hide_password=False)))

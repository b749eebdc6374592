"""The server is killed, not its machine: what it had handed to the operating system is there when it comes back."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import Engine, NullPool, create_engine

from flask_idempotency.stores import RedisStore, SQLAlchemyStore
from tests.databases import MariaDB
from tests.stores.redis import servers
from tests.stores.sql.crashes import crash, nothing_synced_by_itself

from .kept import ALL, CLAIM, keep_each, left_of


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({"appendonly": "no"}, set()),
        ({"appendonly": "yes", "appendfsync": "no"}, ALL),
        ({"appendonly": "yes", "appendfsync": "everysec"}, ALL),
        ({"appendonly": "yes", "appendfsync": "always"}, ALL),
    ],
    ids=["appendonly no", "appendfsync no", "appendfsync everysec", "appendfsync always"],
)
def test_valkey_has_what_it_appended_to_its_file(config: dict[str, str], kept: set[str], run: str) -> None:
    server = servers.Server(**config)
    with servers.running(server), closing(RedisStore.from_url(server.url)) as store:
        keep_each(store, run)
        if config.get("appendfsync") == "everysec":
            # While its disk is at it, it holds the next writes back in its own memory.
            with server.client() as client:
                servers.wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0, "it is written")
        server.restart()
        assert left_of(store, run) == kept


@pytest.fixture
def engine(postgresql_url: str) -> Iterator[Engine]:
    engine = create_engine(postgresql_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    yield engine
    set_in_postgresql(engine, synchronous_commit="on", fsync="on")


def set_in_postgresql(engine: Engine, **settings: str) -> None:
    """Change settings of the server itself, for whoever connects from now on."""
    with engine.connect() as connection:
        for name, value in settings.items():
            connection.exec_driver_sql(f"ALTER SYSTEM SET {name} = {value}")
        connection.exec_driver_sql("SELECT pg_reload_conf()")

    def is_set() -> bool:
        with engine.connect() as connection:
            found = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in settings}
        return found == settings

    servers.wait_until(is_set, "the server has read its settings")


@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        ({"synchronous_commit": "on"}, ALL - {CLAIM}),
        ({"synchronous_commit": "off"}, set()),
        ({"fsync": "off"}, ALL - {CLAIM}),
    ],
    ids=["synchronous_commit on", "synchronous_commit off", "fsync off"],
)
def test_postgresql_has_what_its_commits_waited_for(
    engine: Engine, postgresql_url: str, setting: dict[str, str], kept: set[str], run: str
) -> None:
    with closing(SQLAlchemyStore(postgresql_url)) as store:
        keep_each(store, f"{run}, before")  # makes the table
        store.close()
        set_in_postgresql(engine, **setting)
        with nothing_synced_by_itself(engine):
            keep_each(store, run)
            crash(engine)
        assert left_of(store, run) == kept


@pytest.mark.parametrize(("policy", "kept"), [(0, set()), (1, ALL), (2, ALL)])
def test_mariadb_has_what_its_commits_wrote(mariadb: MariaDB, policy: int, kept: set[str], run: str) -> None:
    engine = create_engine(mariadb.url, isolation_level="AUTOCOMMIT")
    with closing(SQLAlchemyStore(mariadb.url)) as store:
        keep_each(store, f"{run}, before")  # makes the table
        with engine.connect() as connection:
            connection.exec_driver_sql(f"SET GLOBAL innodb_flush_log_at_trx_commit = {policy}")
        keep_each(store, run)
        engine.dispose()
        mariadb.restart()
        assert left_of(store, run) == kept

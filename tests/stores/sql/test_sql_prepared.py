"""Statements that PostgreSQL has prepared, the sessions on which they are, and those on which they must not be."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from psycopg import OperationalError
from sqlalchemy import Engine, MetaData, create_engine, event, make_url, text

from flask_idempotency.engine.records import Claimed, Completed, InProgress
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import SQLAlchemyStore, sqlalchemy_psycopg
from flask_idempotency.stores.sqlalchemy_call import Call
from flask_idempotency.stores.sqlalchemy_psycopg import Prepared
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE, new_record

from .pooler import pgbouncer
from .usual import USUAL


@pytest.fixture
def store(postgresql_url: str) -> Iterator[SQLAlchemyStore]:
    store = SQLAlchemyStore(postgresql_url)
    yield store
    store.close()


def claim(store: SQLAlchemyStore, record: Any = None) -> Any:
    return store.claim(record or new_record(), FINGERPRINT, **USUAL)


def serve(store: SQLAlchemyStore) -> None:
    """A request and its repeat."""
    claimed = claim(store, record := new_record())
    assert isinstance(claimed, Claimed)
    assert store.complete(claimed.claim, RESPONSE, retention=DAY) is True
    assert claim(store, record) == Completed(FINGERPRINT, RESPONSE)


def engine_of(store: SQLAlchemyStore) -> Engine:
    """The engine of the store, with all its connections in its pool."""
    store._ready()[0].give_back()
    assert store._engine is not None
    return store._engine


def prepared(store: SQLAlchemyStore) -> set[str]:
    """The names of what is prepared on the connection that the store used last."""
    with engine_of(store).connect() as connection:
        return set(connection.execute(text("SELECT name FROM pg_prepared_statements")).scalars())


def test_on_a_session_of_its_own_each_statement_is_prepared_once(store: SQLAlchemyStore) -> None:
    for _ in range(5):
        serve(store)
    assert len(names := prepared(store)) == 2
    serve(store)
    assert prepared(store) == names


def test_a_statement_has_the_same_name_on_every_session_and_no_other_has_it(store: SQLAlchemyStore) -> None:
    seen: list[set[str]] = []
    for _ in range(2):
        serve(store)
        seen.append(prepared(store))
        engine_of(store).dispose()
    assert seen[0] == seen[1]
    assert len(seen[0]) == 2
    names = [Prepared.of(Call(sql, None)).name for sql in ("SELECT %(id)s", "SELECT %(token)s", "SELECT 1")]
    assert len(set(names)) == 2
    assert names[0] == names[1]  # to the server, they are the same


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_through_a_pooler_nothing_is_prepared_or_set(postgresql_url: str, mode: str) -> None:
    with pgbouncer(postgresql_url, connections=1, mode=mode) as url:
        store = SQLAlchemyStore(url.render_as_string(hide_password=False))
        for _ in range(5):
            serve(store)
        assert store.purge(limit=1) in (0, 1)
        assert prepared(store) == set()
        with engine_of(store).connect() as connection:
            assert connection.execute(text("SHOW enable_seqscan")).scalar() == "on"
        store.close()


@pytest.mark.parametrize("knows", ["nothing of it", "it already"])
def test_where_a_pooler_hides_so_well_that_it_is_not_noticed_nothing_is_prepared_from_then_on(
    store: SQLAlchemyStore, knows: str
) -> None:
    serve(store)
    with engine_of(store).connect() as connection:
        info = connection.connection.info["flask_idempotency.prepared"]
        driver: Any = connection.connection.dbapi_connection
        if knows == "it already":  # another client of the pooler, of which this one knows nothing, has prepared it
            info.clear()
        else:
            for name in info:  # behind the driver's back, as if this were another session
                driver.pgconn.exec_(b"DEALLOCATE " + name)
    serve(store)
    engine_of(store).dispose()
    serve(store)
    assert prepared(store) == set()


def test_a_table_whose_name_is_not_ascii_serves_in_any_encoding(postgresql_url: str) -> None:
    admin = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text('CREATE SCHEMA IF NOT EXISTS "Büro"'))
    admin.dispose()
    url = make_url(postgresql_url).update_query_dict({"client_encoding": "latin1"})
    store = SQLAlchemyStore(url.render_as_string(hide_password=False), metadata=MetaData(schema="Büro"))
    serve(store)
    store.close()


@contextmanager
def happens_at_commit(url: str, what: str) -> Iterator[None]:
    """Each of the first two inserts of a record, and no third, meets it: behind the rows that it returned."""
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("CREATE SEQUENCE commits"))
        connection.execute(
            text(f"""
                CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    IF nextval('commits') <= 2 THEN {what}; END IF;
                    RETURN NULL;
                END $$
            """)
        )
        connection.execute(
            text(
                "CREATE CONSTRAINT TRIGGER trouble AFTER INSERT ON idempotency_records "
                "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION trouble()"
            )
        )
        try:
            yield
            assert connection.execute(text("SELECT last_value FROM commits")).scalar_one() == 3
        finally:
            connection.execute(text("DROP FUNCTION trouble CASCADE"))
            connection.execute(text("DROP SEQUENCE commits"))
    admin.dispose()


@pytest.mark.parametrize(
    "what",
    [
        "RAISE 'not now' USING ERRCODE = 'serialization_failure'",
        "PERFORM pg_terminate_backend(pg_backend_pid(), 1000)",
    ],
)
def test_what_fails_at_its_commit_is_tried_again_though_its_rows_have_come(
    store: SQLAlchemyStore, postgresql_url: str, what: str
) -> None:
    serve(store)
    with happens_at_commit(postgresql_url, what):
        serve(store)


def other_answers(session: Any, timeout: float) -> Any:
    raise AssertionError("nobody calls it so")


@pytest.mark.parametrize("inside", [None, other_answers])
def test_a_psycopg_that_is_another_inside_serves_by_its_cursors(
    store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch, inside: Any
) -> None:
    monkeypatch.setattr(sqlalchemy_psycopg, "answers", inside)
    serve(store)
    assert prepared(store) == set()


def test_a_column_of_a_type_that_records_do_not_have_is_an_error_that_refuses(
    store: SQLAlchemyStore, postgresql_url: str
) -> None:
    claimed = claim(store, record := new_record())
    admin = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    change = "ALTER TABLE idempotency_records ALTER COLUMN lease_ends TYPE "
    with admin.connect() as connection:
        connection.execute(text(change + "text"))
        try:
            with pytest.raises(StoreUnavailable):
                claim(store, record)
        finally:
            connection.execute(text(change + "double precision USING lease_ends::double precision"))
    admin.dispose()
    assert store.complete(claimed.claim, RESPONSE, retention=DAY) is True
    assert claim(store, record) == Completed(FINGERPRINT, RESPONSE)


def test_a_migration_that_changes_a_column_disturbs_nobody(store: SQLAlchemyStore, postgresql_url: str) -> None:
    serve(store)
    admin = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    change = "ALTER TABLE idempotency_records ALTER COLUMN number TYPE "
    with admin.connect() as connection:
        for kind in ("bigint", "integer"):
            connection.execute(text(change + kind))
            serve(store)
    assert len(prepared(store)) == 2
    admin.dispose()


def test_a_plan_that_is_made_while_the_table_is_small_reads_no_whole_table(
    store: SQLAlchemyStore, postgresql_url: str
) -> None:
    """It is kept when the table has grown."""
    admin = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    serve(store)
    with admin.connect() as connection:
        connection.execute(text("DELETE FROM idempotency_records"))
        connection.execute(text("VACUUM (FULL, ANALYZE) idempotency_records"))
    admin.dispose()
    _, statements = store._ready()
    values = {"id": b"i", "fingerprint": b"f", "token": b"t", "lease": 1.0, "longest": 1.0, "take_over": True}
    values |= {"key": "k", "method": "POST", "path": "/", "retention": 1.0, "response": b"r"}
    with engine_of(store).connect() as connection:
        for statement in (statements.claim, statements.complete, statements.find):
            plan = connection.execute(text("EXPLAIN " + statement), values).scalars().all()
            assert any("Index Scan using idempotency_records_pkey" in line for line in plan), plan
            assert not any("Seq Scan" in line for line in plan), plan


@pytest.mark.parametrize("watched", ["events", "log"])
def test_who_watches_sqlalchemy_sees_every_statement(
    store: SQLAlchemyStore, watched: str, caplog: pytest.LogCaptureFixture
) -> None:
    serve(store)
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    if watched == "events":
        event.listen(engine_of(store), "before_cursor_execute", note)
        serve(store)
    else:
        with caplog.at_level(logging.INFO, logger="sqlalchemy.engine"):
            serve(store)
        seen = [line for line in caplog.messages if "idempotency_records" in line]
        assert "X-Twice" not in caplog.text
    assert len(seen) == 3


class Interrupt(BaseException):
    """As gevent's time-outs interrupt a greenlet while it waits for its answer."""


def driver_of(store: SQLAlchemyStore) -> Any:
    """The connection that the store uses next."""
    pooled = engine_of(store).raw_connection()
    driver: Any = pooled.dbapi_connection
    pooled.close()
    return driver


@pytest.mark.parametrize("kind", [Interrupt, OperationalError])
@pytest.mark.parametrize("watched", [False, True])
def test_an_interrupted_call_leaves_no_answer_for_the_next(store: SQLAlchemyStore, kind: Any, watched: bool) -> None:
    """The other: as where libpq has no memory for a large answer."""
    held = claim(store, record := new_record())
    if watched:
        event.listen(engine_of(store), "before_cursor_execute", lambda *_: None)
    driver = driver_of(store)

    def interrupted(answers: Any, **_: object) -> None:
        next(answers)  # sends
        raise kind

    driver.wait = interrupted
    with pytest.raises(Interrupt) if kind is Interrupt else suppress(StoreUnavailable):
        claim(store)
    assert driver.closed
    assert engine_of(store).pool.checkedout() == 0  # type: ignore[attr-defined]
    assert store.complete(held.claim, RESPONSE, retention=DAY) is True
    assert claim(store, record) == Completed(FINGERPRINT, RESPONSE)


def test_an_interrupted_claim_is_this_processes_own_when_the_client_asks_again(store: SQLAlchemyStore) -> None:
    claim(store)
    driver = driver_of(store)
    wait = driver.wait

    def interrupted(answers: Any) -> None:
        wait(answers)
        raise Interrupt

    driver.wait = interrupted
    with pytest.raises(Interrupt):
        claim(store, record := new_record())
    elsewhere = SQLAlchemyStore(store._given)
    assert isinstance(claim(elsewhere, record), InProgress)
    elsewhere.close()
    outcome = claim(store, record)
    assert isinstance(outcome, Claimed)
    assert not outcome.lapsed


def test_no_word_of_an_error_is_of_the_answer(store: SQLAlchemyStore, postgresql_url: str) -> None:
    held = claim(store)
    admin = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("ALTER TABLE idempotency_records RENAME COLUMN response TO elsewhere"))
        try:
            with pytest.raises(StoreUnavailable) as raised:
                store.complete(held.claim, RESPONSE, retention=DAY)
        finally:
            connection.execute(text("ALTER TABLE idempotency_records RENAME COLUMN elsewhere TO response"))
    admin.dispose()
    told = "".join(traceback.format_exception(raised.value))
    assert "UndefinedColumn" in str(raised.value)
    assert "coalesce(" in told
    assert "X-Twice" not in told
    assert store.complete(held.claim, RESPONSE, retention=DAY) is True

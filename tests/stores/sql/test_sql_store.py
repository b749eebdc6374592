"""What is the SQL store's own: where its table lives, what its calls cost, whose clock decides, who wins."""

import http.client
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Engine, MetaData, create_engine, event, inspect, text

from flask_idempotency import Idempotency
from flask_idempotency.engine import clock
from flask_idempotency.engine.records import Claimed, Completed, InProgress
from flask_idempotency.stores import SQLAlchemyStore
from flask_idempotency.stores.sqlalchemy_tables import record_table, step_table
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE, new_record
from tests.servers.launch import serve

from .usual import USUAL

#: How many keys are raced for. More are asked for by RACE_KEYS=200; a run of the whole suite has less time.
KEYS = int(os.environ.get("RACE_KEYS", "8"))
RACERS = 64


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


def claim(store: SQLAlchemyStore, record: Any, lease: float = 60.0) -> Any:
    return store.claim(record, FINGERPRINT, **USUAL | {"lease": lease})


def test_flask_sqlalchemys_metadata_has_the_table_and_the_store_works_on_its_engine(database_url: str) -> None:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = database_url
    db = SQLAlchemy(app)
    store = SQLAlchemyStore(db)
    Idempotency(app, store=store)
    app.add_url_rule("/", "order", lambda: "ok", methods=["POST"])
    assert {"idempotency_records", "idempotency_steps"} <= set(db.metadata.tables)
    key = {"Idempotency-Key": str(new_record().id.hex())}
    answers = [app.test_client().post("/", headers=key) for _ in range(2)]
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true"]


def test_a_table_made_by_migrations_serves_and_create_can_be_left_to_them(engine: Engine) -> None:
    metadata = MetaData()
    table = record_table(metadata)
    step_table(metadata)
    metadata.drop_all(engine)
    metadata.create_all(engine)
    store = SQLAlchemyStore(engine, create=False)
    assert isinstance(claim(store, new_record()), Claimed)
    columns = {column["name"] for column in inspect(engine).get_columns("idempotency_records")}
    assert columns == {column.name for column in table.columns}


def test_many_who_make_the_table_at_once_all_serve(engine: Engine, database_url: str) -> None:
    for table in (record_table(MetaData()), step_table(MetaData())):
        table.drop(engine, checkfirst=True)
    start = threading.Barrier(8)

    def serve_one(_: int) -> bool:
        store = SQLAlchemyStore(database_url)
        start.wait(20)
        outcome = claim(store, new_record())
        store.close()
        return isinstance(outcome, Claimed)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(serve_one, range(8))) == [True] * 8


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    """The statements, and the commits and rollbacks, that the engine sends."""
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        sent.append(statement.split()[0])

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_a_fresh_request_is_two_statements_and_a_replay_one(database_url: str) -> None:
    store = SQLAlchemyStore(database_url)
    record = new_record()
    claim(store, new_record())
    assert store._engine is not None
    with counted(store._engine) as sent:
        claimed = claim(store, record)
        store.complete(claimed.claim, RESPONSE, retention=DAY)
        assert len(sent) == 2
        assert isinstance(claim(store, record), Completed)
    # SQLite cannot return what stands in the way, but it is not far either.
    assert len(sent) == (4 if "sqlite" in database_url else 3)
    store.close()


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_the_databases_clock_decides(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    store = SQLAlchemyStore(request.getfixturevalue(f"{database}_url"))
    record = new_record()
    claim(store, record, lease=60)
    real = time.time
    monkeypatch.setattr(clock, "now", lambda: real() + 7200)  # this host is two hours ahead
    outcome = claim(store, record)
    assert isinstance(outcome, InProgress)
    assert abs(outcome.started - clock.now()) < 60
    assert 0 < outcome.lease_ends - clock.now() <= 60
    store.close()


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_a_purge_passes_by_what_another_holds(request: pytest.FixtureRequest, database: str) -> None:
    url = request.getfixturevalue(f"{database}_url")
    store, engine = SQLAlchemyStore(url), create_engine(url)
    while store.purge(limit=1000):
        pass
    held, free = new_record(), new_record()
    for record in (held, free):
        store.complete(claim(store, record).claim, RESPONSE, retention=0.001)
    time.sleep(0.01)
    with engine.begin() as connection:
        lock = text("SELECT id FROM idempotency_records WHERE id = :id FOR UPDATE")
        connection.execute(lock, {"id": held.id})
        assert store.purge(limit=10) == 1
        assert isinstance(claim(store, free), Claimed)
    assert store.purge(limit=10) == 1
    engine.dispose()
    store.close()


def race(key: str, ports: list[int]) -> list[tuple[int, str | None, bytes]]:
    """What each racer hears who asks one of these ports for `key` at the same moment as all others."""
    start = threading.Barrier(len(ports))

    def ask(port: int) -> tuple[int, str | None, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.connect()
            start.wait(30)
            connection.request("POST", "/orders", b"{}", {"Host": "shop.example", "Idempotency-Key": key})
            response = connection.getresponse()
            return response.status, response.getheader("Idempotent-Replayed"), response.read()

    with ThreadPoolExecutor(len(ports)) as pool:
        return list(pool.map(ask, ports))


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_of_64_racers_over_two_server_processes_one_runs(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    runs = tmp_path / "runs"
    environment = {"RACE_STORE": request.getfixturevalue(f"{database}_url"), "RACE_RUNS": str(runs)}
    heard: Counter[int] = Counter()
    with ExitStack() as stack:
        app = "tests.stores.sql.race_app:app"
        servers = [stack.enter_context(serve("gunicorn gthread", app, env=environment, threads=40)) for _ in range(2)]
        racers = [servers[number % 2].port for number in range(RACERS)]
        for _ in range(KEYS):
            key = new_record().id.hex()
            answers = race(key, racers)
            heard.update(status for status, _, _ in answers)
            first = [body for status, replayed, body in answers if status == 201 and not replayed]
            assert len(first) == 1
            assert {body for status, _, body in answers if status == 201} == set(first)
            assert race(key, racers[:2]) == [(201, "true", first[0])] * 2
    assert set(heard) <= {201, 409}
    counts = Counter(runs.read_text().split())
    assert len(counts) == KEYS
    assert set(counts.values()) == {1}

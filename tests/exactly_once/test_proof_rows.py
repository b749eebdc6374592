"""The row of an operation: who holds it, who may end it, and what it says when its retention is over."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from freezegun import freeze_time
from sqlalchemy import Engine, MetaData, create_engine, delete
from sqlalchemy.exc import IntegrityError

from flask_idempotency.engine.records import Claim, RecordKey, StoredResponse
from flask_idempotency.exactly_once.at_rest import AtRest
from flask_idempotency.exactly_once.lock_wait import LockWait
from flask_idempotency.exactly_once.proofs import HeldByOthers, Kind, Proof, Proofs, proof_table

RECORD = RecordKey(bytes(16))
ANSWER = StoredResponse("200 OK", (), b"answer")


def claim(token: bytes) -> Claim:
    return Claim(RECORD, b"fingerprint", token * 16)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def proofs(engine: Engine) -> Proofs:
    proofs = Proofs(proof_table(MetaData()), AtRest(b"proof", None), LockWait())
    proofs.table.drop(engine, checkfirst=True)
    proofs.table.create(engine)
    return proofs


def end(proofs: Proofs, engine: Engine, token: bytes, kind: Kind, *, held: bool = True) -> None:
    with engine.begin() as connection:
        proofs.end(connection, claim(token), kind, ANSWER, retention=60, held=held)


def find(proofs: Proofs, engine: Engine) -> Proof | None:
    with engine.connect() as connection:
        return proofs.find(connection, RECORD.id)


def test_a_row_is_held_by_whoever_comes_last_until_it_is_done(proofs: Proofs, engine: Engine) -> None:
    assert proofs.hold(engine, claim(b"a"), retention=60) is None
    before = proofs.hold(engine, claim(b"b"), retention=60)
    assert before is not None
    assert (before.kind, before.token) == (Kind.HELD, b"a" * 16)
    end(proofs, engine, b"b", Kind.DONE)
    done = proofs.hold(engine, claim(b"c"), retention=60)
    assert done == find(proofs, engine) == Proof(Kind.DONE, b"b" * 16, b"fingerprint", ANSWER)


def test_whoever_does_not_hold_it_any_more_cannot_end_it(proofs: Proofs, engine: Engine) -> None:
    for token in (b"a", b"b"):
        proofs.hold(engine, claim(token), retention=60)
    for kind in (Kind.DONE, Kind.RELEASED):
        for held in (True, False):
            with pytest.raises(IntegrityError):
                end(proofs, engine, b"a", kind, held=held)
    found = find(proofs, engine)
    assert found is not None
    assert (found.kind, found.token) == (Kind.HELD, b"b" * 16)


def test_what_is_done_gives_way_once_its_retention_is_over(proofs: Proofs, engine: Engine) -> None:
    with freeze_time("2026-11-24 12:00:00"):
        end(proofs, engine, b"a", Kind.DONE, held=False)
    with freeze_time("2026-11-24 12:01:01"):
        assert proofs.hold(engine, claim(b"b"), retention=60) is None
        end(proofs, engine, b"b", Kind.RELEASED)
        found = find(proofs, engine)
        assert found is not None
        assert (found.kind, found.token) == (Kind.RELEASED, b"b" * 16)


def test_a_hold_that_was_swept_up_under_a_long_handler_does_not_turn_it_back(proofs: Proofs, engine: Engine) -> None:
    proofs.hold(engine, claim(b"a"), retention=60)
    with engine.begin() as connection:
        connection.execute(delete(proofs.table))
    end(proofs, engine, b"a", Kind.DONE)
    found = find(proofs, engine)
    assert found is not None
    assert found.kind is Kind.DONE


def test_a_row_that_changes_between_the_look_and_the_hold_is_looked_at_again(
    proofs: Proofs, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Proofs._look
    between: list[Callable[[], object]] = [
        lambda: end(proofs, engine, b"x", Kind.RELEASED, held=False),  # there was none
        lambda: proofs.hold(engine, claim(b"y"), retention=60),  # it was released
        lambda: proofs.hold(engine, claim(b"z"), retention=60),  # it was another's
        lambda: end(proofs, engine, b"z", Kind.DONE),  # it was held
    ]

    def look_and_lose(proofs: Proofs, *args: Any) -> Any:
        seen = look(proofs, *args)
        args[0].rollback()  # or SQLite keeps others from writing
        if between:
            with monkeypatch.context() as patch:
                patch.setattr(Proofs, "_look", look)
                between.pop(0)()
        return seen

    monkeypatch.setattr(Proofs, "_look", look_and_lose)
    found = proofs.hold(engine, claim(b"a"), retention=60)
    assert between == []
    assert found is not None
    assert (found.kind, found.token) == (Kind.DONE, b"z" * 16)


def test_a_row_that_never_stops_changing_is_left_to_others(
    proofs: Proofs, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    proofs.hold(engine, claim(b"a"), retention=60)
    monkeypatch.setattr(Proofs, "_change", lambda *_: False)
    with pytest.raises(HeldByOthers):
        proofs.hold(engine, claim(b"b"), retention=60)

"""The connections that the store keeps at hand: not more than it uses, not longer than they are good."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event

from flask_idempotency.engine.records import Claimed, Completed
from flask_idempotency.stores import SQLAlchemyStore, sqlalchemy_direct
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE, new_record

from .usual import USUAL


@pytest.fixture(params=["postgresql", "mariadb"])
def store(request: pytest.FixtureRequest) -> Iterator[SQLAlchemyStore]:
    store = SQLAlchemyStore(request.getfixturevalue(f"{request.param}_url"))
    yield store
    store.close()


def claim(store: SQLAlchemyStore) -> Any:
    outcome = store.claim(new_record(), FINGERPRINT, **USUAL)
    assert isinstance(outcome, Claimed)
    return outcome.claim


def engine_of(store: SQLAlchemyStore) -> Engine:
    assert store._engine is not None
    return store._engine


def connections(store: SQLAlchemyStore) -> tuple[int, int]:
    """How many are out of the pool, and how many in it."""
    pool: Any = engine_of(store).pool
    return pool.checkedout(), pool.checkedin()


def at_hand(store: SQLAlchemyStore) -> Any:
    """The driver's connection that the store keeps."""
    direct = store._ready()[0]._direct
    assert direct is not None
    ((pooled, _, _),) = direct._at_hand
    return pooled.dbapi_connection


def test_whatever_is_asked_in_turn_one_connection_answers(store: SQLAlchemyStore) -> None:
    for _ in range(3):
        held = claim(store)
        assert connections(store) == (1, 0)
        store.renew([held], lease=60)
        store.keep_step(held, "charge", b"paid", retention=DAY)
        store.load_steps(held)
        store.purge(limit=1)
        assert sum(connections(store)) == 1


def test_a_closed_store_has_none_and_one_that_is_idle_for_long_asks_the_pool(
    store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(store)
    kept = at_hand(store)
    monkeypatch.setattr(sqlalchemy_direct, "_STANDS", -1)
    asked: list[object] = []
    event.listen(engine_of(store).pool, "checkout", lambda *arguments: asked.append(arguments))
    claim(store)
    assert len(asked) == 1
    assert at_hand(store) is kept  # the pool found it good
    store.close()
    assert connections(store) == (0, 0)


def test_where_the_engine_was_disposed_of_its_connections_are_closed(store: SQLAlchemyStore) -> None:
    held = claim(store)
    before = at_hand(store)
    engine_of(store).dispose()
    assert store.complete(held, RESPONSE, retention=DAY) is True
    assert at_hand(store) is not before
    assert not getattr(before, "open", False)
    assert getattr(before, "closed", True)


def test_a_forked_child_says_no_goodbye_on_its_parents_connection(store: SQLAlchemyStore) -> None:
    held = claim(store)
    before = at_hand(store)
    pid = os.fork()
    if pid == 0:
        claim(store)
        store.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert store.complete(held, RESPONSE, retention=DAY) is True
    assert store.claim(held.record, FINGERPRINT, **USUAL) == Completed(FINGERPRINT, RESPONSE)
    assert at_hand(store) is before

"""Expired records go in small batches as requests come: no request pays for all of them."""

import sqlite3
import time
from pathlib import Path

import pytest

from flask_idempotency.engine.engine import Engine, Run
from flask_idempotency.engine.policy import Policy
from flask_idempotency.stores import SQLiteStore
from flask_idempotency.stores.sqlite import _PURGE

EXPIRED = 50_000


class CountingStore(SQLiteStore):
    """Notes what each purge took, and during which request."""

    request = 0

    def purge(self, *, limit: int) -> int:
        taken = super().purge(limit=limit)
        self.taken.append((self.request, taken))
        return taken

    taken: list[tuple[int, int]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "idempotency.db"
    SQLiteStore(path).purge(limit=1)
    connection = sqlite3.connect(path)
    over = time.time() - 1
    connection.executemany(
        "INSERT INTO idempotency_records VALUES (?, ?, ?, 1, NULL, ?, ?)",
        ((b"%16d" % number, b"f" * 16, b"t" * 16, over - number, b"x" * 50) for number in range(EXPIRED)),
    )
    connection.commit()
    connection.close()
    return path


def left(path: Path) -> int:
    connection = sqlite3.connect(path)
    ((count,),) = connection.execute("SELECT count(*) FROM idempotency_records WHERE expires_at < ?", (time.time(),))
    connection.close()
    return int(count)


def test_no_request_takes_more_than_a_batch_and_all_are_gone_in_the_end(path: Path) -> None:
    store = CountingStore(path, durable=False)
    store.taken = []
    engine = Engine(store)
    for number in range(320):
        store.request = number
        decision = engine.begin(key=str(number), principal=b"p" * 16, fingerprint=b"f" * 16, policy=Policy())
        assert isinstance(decision, Run)
        assert decision.attempt is not None
        engine.complete(decision.attempt, None)
    # Expired records go faster than new ones come.
    assert sum(taken for _, taken in store.taken) >= 320
    assert max(taken for _, taken in store.taken) <= 32
    assert len({request for request, _ in store.taken}) == len(store.taken)
    assert left(path) == EXPIRED - sum(taken for _, taken in store.taken)
    while store.purge(limit=32):
        pass
    assert left(path) == 0
    assert sum(taken for _, taken in store.taken) == EXPIRED
    assert max(taken for _, taken in store.taken) <= 32


def test_a_batch_is_found_by_the_index_without_looking_at_the_rest(path: Path) -> None:
    connection = sqlite3.connect(path)
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {_PURGE}", {"now": 0, "limit": 1})]
    connection.close()
    assert any("USING COVERING INDEX idempotency_records_by_expiry (expires_at<?)" in step for step in plan), plan
    assert not any(step.startswith("SCAN") or "TEMP B-TREE" in step for step in plan), plan

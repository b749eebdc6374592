"""Expired records go in small batches as requests come: no request pays for all of them."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from flask_idempotency.engine.attempt import Attempt
from flask_idempotency.engine.engine import Engine
from flask_idempotency.engine.policy import Policy
from flask_idempotency.engine.records import Claim, Claimed, RecordKey
from flask_idempotency.stores import SQLiteStore
from flask_idempotency.stores.sqlite_file import SQLiteFile, Write
from flask_idempotency.stores.sqlite_schema import first_place
from flask_idempotency.stores.sqlite_statements import DUE, PURGE

from .usual import FINGERPRINT, PLAIN, USUAL, claimed

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
        "INSERT INTO idempotency_records VALUES (?, ?, ?, ?, 1, 4, 0.0, 0.0, 60.0, ?, 'k', 'POST', '/', ?)",
        (
            (first_place(over - number), b"%16d" % number, FINGERPRINT, b"t" * 16, over - number, b"x" * 50)
            for number in range(EXPIRED)
        ),
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
        attempt = engine.begin(
            key=str(number),
            principal=b"p" * 16,
            fingerprint=FINGERPRINT,
            request_fingerprint=FINGERPRINT,
            policy=Policy(),
        )
        assert isinstance(attempt, Attempt)
        engine.complete(attempt, None)
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


def test_a_batch_is_found_and_taken_without_looking_at_the_rest(path: Path) -> None:
    connection = sqlite3.connect(path)
    for statement in (DUE, PURGE):
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", (0, 1))]
        assert plan == ["SEARCH idempotency_records USING INTEGER PRIMARY KEY (rowid<?)"]
    connection.close()


def test_a_large_purge_lets_others_write_every_few_records(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    write = SQLiteFile.write

    def noted(file: SQLiteFile, *writes: Write, durable: bool, scattered: bool) -> None:
        write(file, *writes, durable=durable, scattered=scattered)
        taken.append(sum(each.changed for each in writes))

    monkeypatch.setattr(SQLiteFile, "write", noted)
    assert SQLiteStore(path, durable=False).purge(limit=1000) == 1000
    assert (sum(taken), max(taken)) == (1000, 32)


@pytest.fixture
def frozen() -> Iterator[FrozenDateTimeFactory]:
    with freeze_time("2026-01-01") as frozen:
        assert isinstance(frozen, FrozenDateTimeFactory)
        yield frozen


@pytest.fixture
def store(tmp_path: Path, frozen: FrozenDateTimeFactory) -> SQLiteStore:
    return SQLiteStore(tmp_path / "short.db", durable=False)


def claim(store: SQLiteStore, name: str, *, lease: float = 30.0, retention: float = 60.0) -> Claim:
    return claimed(store.claim(RecordKey.of(b"p" * 16, name), FINGERPRINT, **PLAIN, lease=lease, retention=retention))


def test_a_record_is_swept_in_the_moment_in_which_it_expires(store: SQLiteStore, frozen: FrozenDateTimeFactory) -> None:
    for number in range(100):  # all in the same moment
        store.complete(claim(store, str(number)), None, retention=60.0)
    frozen.tick(59.999)
    assert store.purge(limit=1000) == 0
    frozen.tick(0.001)
    assert store.purge(limit=1000) == 100


def test_one_that_expires_sooner_than_its_claim_foresaw_is_swept_when_that_would_have_been(
    store: SQLiteStore, frozen: FrozenDateTimeFactory
) -> None:
    store.complete(claim(store, "later"), None, retention=60.0)
    store.complete(claim(store, "sooner"), None, retention=5.0)
    frozen.tick(5)
    assert isinstance(store.claim(RecordKey.of(b"p" * 16, "sooner"), b"o" * 16, **USUAL), Claimed)
    frozen.tick(55)
    assert store.purge(limit=1000) == 1


@pytest.mark.parametrize("done", [True, False])
def test_one_whose_outcome_is_unknown_is_looked_at_by_and_by_and_swept_soon_after_it_is_resolved(
    store: SQLiteStore, frozen: FrozenDateTimeFactory, done: bool
) -> None:
    store.abandon(claim(store, "abandoned"))
    for _ in range(3):
        frozen.tick(61)
        assert store.purge(limit=10) == 0
    assert store.resolve(RecordKey.of(b"p" * 16, "abandoned").id, done=done, retention=60.0)
    frozen.tick(61)
    assert store.purge(limit=10) == 1


def test_one_that_lives_longer_than_its_claim_foresaw_is_kept_and_keeps_no_sweep_from_the_others(
    store: SQLiteStore, frozen: FrozenDateTimeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = [claim(store, f"longer-{number}") for number in range(50)]
    frozen.tick(25)
    store.renew(longer, lease=120.0)
    done = [claim(store, f"done-{number}", retention=36.0) for number in range(50)]
    for each in done:
        store.complete(each, None, retention=36.0)
    frozen.tick(36)
    # All are due, those that live longer before the others.
    assert [store.purge(limit=20) for _ in range(4)] == [10, 20, 20, 0]
    looked_at = []
    read = SQLiteFile.read

    def noted(file: SQLiteFile, statement: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
        rows = read(file, statement, values)
        looked_at.extend(rows)
        return rows

    monkeypatch.setattr(SQLiteFile, "read", noted)
    assert (store.purge(limit=20), looked_at) == (0, [])
    for each in longer:
        assert store.complete(each, None, retention=60.0)
    frozen.tick(60)
    assert store.purge(limit=1000) == 50


def test_a_key_claimed_again_is_swept_when_its_new_record_expires(
    store: SQLiteStore, frozen: FrozenDateTimeFactory
) -> None:
    store.complete(claim(store, "again"), None, retention=60.0)
    frozen.tick(60)
    again = claim(store, "again", retention=100.0)
    assert store.purge(limit=10) == 0
    assert store.complete(again, None, retention=100.0)
    frozen.tick(100)
    assert store.purge(limit=10) == 1

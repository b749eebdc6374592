"""Encryption at rest: the contract holds, nothing is readable, keys rotate, and doubt refuses."""

import itertools
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_idempotency import Idempotency
from flask_idempotency.engine.records import Claimed, Completed, InProgress, StoredResponse
from flask_idempotency.engine.store import Store, StoreUnavailable
from flask_idempotency.stores import EncryptedStore, MemoryStore, SQLiteStore
from flask_idempotency.testing.contract import DAY, FINGERPRINT, OTHER_FINGERPRINT, RESPONSE, new_record
from tests.stores.test_contract import EmbeddedStoreContract

OLD, NEW, OTHER = "old-" * 10, "new-" * 10, "other" * 10


class TestEncryptedMemoryStore(EmbeddedStoreContract):
    @pytest.fixture(autouse=True)
    def the_only_store(self) -> None:
        self.only = EncryptedStore(MemoryStore(), [NEW, OLD])

    def open_store(self) -> Store:
        return self.only


class TestEncryptedSQLiteStore(EmbeddedStoreContract):
    @pytest.fixture(autouse=True)
    def one_file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "idempotency.db"

    def open_store(self) -> Store:
        return EncryptedStore(SQLiteStore(self.path), [NEW])


def claim(store: Store, record: Any, fingerprint: bytes = FINGERPRINT, lease: float = 60.0) -> Any:
    return store.claim(record, fingerprint, lease=lease, retention=DAY)


def keep(store: Store, record: Any, response: StoredResponse = RESPONSE) -> None:
    assert store.complete(claim(store, record).claim, response, retention=DAY)


def test_nothing_of_an_answer_can_be_read_from_the_file(tmp_path: Path) -> None:
    app = Flask(__name__)
    app.config["IDEMPOTENCY_STORE_URL"] = f"sqlite:///{tmp_path / 'records.db'}"
    app.config["IDEMPOTENCY_ENCRYPTION_KEYS"] = [NEW]
    Idempotency(app)
    answer = ("the secret body", 201, {"X-Secret-Header": "the secret value"})
    app.add_url_rule("/", "index", lambda: answer, methods=["POST"])
    request = {"headers": {"Idempotency-Key": "the-secret-key", "Authorization": "Bearer secret"}, "data": "the secret"}
    answers = [app.test_client().post("/", **request) for _ in range(2)]  # type: ignore[arg-type]
    assert answers[0].data == answers[1].data == b"the secret body"
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not re.search(rb"secret", on_disk, re.IGNORECASE)


def test_a_record_under_a_retired_key_still_replays() -> None:
    inner, record = MemoryStore(), new_record()
    keep(EncryptedStore(inner, [OLD]), record)
    rotated = EncryptedStore(inner, [NEW, OLD])
    assert claim(rotated, record) == Completed(FINGERPRINT, RESPONSE)
    assert claim(rotated, record, OTHER_FINGERPRINT).fingerprint == FINGERPRINT


def test_claims_hold_between_processes_of_old_and_new_configuration() -> None:
    inner = MemoryStore()
    stores = [EncryptedStore(inner, keys) for keys in ([OLD, NEW], [NEW, OLD])]
    for one, other in itertools.permutations(stores):
        record = new_record()
        held = claim(one, record)
        assert isinstance(held, Claimed)
        assert isinstance(claim(other, record), InProgress)
        assert one.complete(held.claim, RESPONSE, retention=DAY)
        assert claim(other, record) == Completed(FINGERPRINT, RESPONSE)


def test_a_claim_that_lapsed_under_a_retired_key_is_taken_over_for_the_same_payload_only() -> None:
    inner, record = MemoryStore(), new_record()
    claim(EncryptedStore(inner, [OLD]), record, lease=1e-9)
    rotated = EncryptedStore(inner, [NEW, OLD])
    assert isinstance(claim(rotated, record, OTHER_FINGERPRINT), InProgress)
    taken = claim(rotated, record)
    assert isinstance(taken, Claimed)
    assert (taken.lapsed, taken.number) == (True, 2)


@pytest.mark.parametrize("done", [True, False], ids=["completed", "in flight"])
def test_under_an_unknown_key_nothing_runs(done: bool) -> None:
    inner, record = MemoryStore(), new_record()
    old = EncryptedStore(inner, [OLD])
    if done:
        keep(old, record)
    else:
        claim(old, record, lease=1e-9)
    with pytest.raises(StoreUnavailable, match="not under any of the known"):
        claim(EncryptedStore(inner, [OTHER]), record)


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b[:30] + b"?" + b[31:], lambda b: b[:3], lambda b: b""])
def test_what_is_corrupted_refuses(spoil: Any) -> None:
    inner, record = MemoryStore(), new_record()
    store = EncryptedStore(inner, [NEW])
    keep(store, record)
    kept = inner._records[record.id]
    assert kept.response is not None
    kept.response = StoredResponse(kept.response.status, (), spoil(kept.response.body))
    with pytest.raises(StoreUnavailable):
        claim(store, record)


def test_an_answer_that_is_moved_to_another_record_refuses() -> None:
    inner, one, other = MemoryStore(), new_record(), new_record()
    store = EncryptedStore(inner, [NEW])
    keep(store, one)
    keep(store, other, StoredResponse("200 OK", (), b"another's"))
    inner._records[one.id].response = inner._records[other.id].response
    with pytest.raises(StoreUnavailable):
        claim(store, one)


def test_what_was_kept_before_there_were_keys_refuses(tmp_path: Path) -> None:
    plain, record = SQLiteStore(tmp_path / "records.db"), new_record()
    keep(plain, record)
    with pytest.raises(StoreUnavailable):
        claim(EncryptedStore(plain, [NEW]), record)
    plain.close()
    assert sqlite3.connect(tmp_path / "records.db").execute("SELECT count(*) FROM idempotency_records").fetchone() == (
        1,
    )


@pytest.mark.parametrize("keys", [[], "a" * 40, ["short"], [NEW, "short"]])
def test_keys_that_protect_nothing_are_refused_where_they_are_written(keys: Any) -> None:
    with pytest.raises(ValueError):
        EncryptedStore(MemoryStore(), keys)
    app = Flask(__name__)
    app.config["IDEMPOTENCY_ENCRYPTION_KEYS"] = keys
    with pytest.raises(ValueError):
        Idempotency(app)

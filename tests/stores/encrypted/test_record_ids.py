"""What a reader of the store can tell of whose records are there: with `id_key`, nothing that a guess can test."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flask_idempotency.engine.records import Claimed, Completed, InProgress, RecordKey
from flask_idempotency.engine.store import Store, StoreUnavailable
from flask_idempotency.stores import EncryptedStore, MemoryStore, SQLiteStore
from flask_idempotency.testing.contract import DAY, FINGERPRINT, OTHER_FINGERPRINT, RESPONSE, new_record
from tests.stores.test_contract import EmbeddedStoreContract

OLD, NEW, OTHER, IDS = "old-" * 10, "new-" * 10, "other" * 10, "ids-" * 10


class TestMemoryStore(EmbeddedStoreContract):
    @pytest.fixture(autouse=True)
    def the_only_store(self) -> None:
        self.only = EncryptedStore(MemoryStore(), [NEW, OLD], id_key=IDS)

    def open_store(self) -> Store:
        return self.only


class TestSQLiteStore(EmbeddedStoreContract):
    @pytest.fixture(autouse=True)
    def one_file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "idempotency.db"

    def open_store(self) -> Store:
        return EncryptedStore(SQLiteStore(self.path), [NEW], id_key=IDS)


def claim(store: Store, record: RecordKey, fingerprint: bytes = FINGERPRINT, lease: float = 60.0) -> Any:
    return store.claim(record, fingerprint, lease=lease, retention=DAY, take_over=True, durable=False)


def test_a_guess_of_principal_and_key_cannot_be_tested(tmp_path: Path) -> None:
    record = RecordKey.of(b"user 42", "order-1001")
    for id_key, found in ((None, True), (IDS, False)):
        folder = tmp_path / str(id_key)
        folder.mkdir()
        store = EncryptedStore(SQLiteStore(folder / "records.db"), [NEW], id_key=id_key)
        assert store.complete(claim(store, record).claim, RESPONSE, retention=DAY)
        store.close()
        assert any(record.id in path.read_bytes() for path in folder.iterdir()) is found


def test_a_claim_bears_the_identity_that_its_process_knows() -> None:
    store, record = EncryptedStore(MemoryStore(), [NEW], id_key=IDS), new_record()
    assert claim(store, record).claim.record == record


def test_keys_rotate_under_the_same_identity() -> None:
    inner = MemoryStore()
    steps = [[OLD], [OLD, NEW], [NEW, OLD], [NEW]]
    for before, after in pairwise(steps):
        one, other = (EncryptedStore(inner, keys, id_key=IDS) for keys in (before, after))
        for first, second in ((one, other), (other, one)):
            held = claim(first, record := new_record())
            assert isinstance(claim(second, record), InProgress)
            assert first.complete(held.claim, RESPONSE, retention=DAY)
            assert claim(second, record) == Completed(FINGERPRINT, RESPONSE)


def test_under_an_unknown_key_nothing_runs() -> None:
    inner, record = MemoryStore(), new_record()
    store = EncryptedStore(inner, [OLD], id_key=IDS)
    assert store.complete(claim(store, record).claim, RESPONSE, retention=DAY)
    with pytest.raises(StoreUnavailable, match="not under any of the known"):
        claim(EncryptedStore(inner, [OTHER], id_key=IDS), record)


def test_another_id_key_finds_nothing() -> None:
    """Why it does not rotate."""
    inner, record = MemoryStore(), new_record()
    claim(EncryptedStore(inner, [NEW], id_key=IDS), record)
    for id_key in (OTHER, None):
        assert isinstance(claim(EncryptedStore(inner, [NEW], id_key=id_key), record), Claimed)


def test_the_key_of_the_identities_is_none_of_the_others() -> None:
    """The same secret in both places gives neither away."""
    inner, record = MemoryStore(), new_record()
    store = EncryptedStore(inner, [NEW], id_key=NEW)
    assert store.complete(claim(store, record).claim, RESPONSE, retention=DAY)
    assert claim(store, record) == Completed(FINGERPRINT, RESPONSE)


@pytest.mark.parametrize("id_key", ["", "short"])
def test_an_id_key_that_can_be_guessed_is_refused(id_key: str) -> None:
    with pytest.raises(ValueError, match="32 characters"):
        EncryptedStore(MemoryStore(), [NEW], id_key=id_key)


def test_equal_payloads_cannot_be_told_from_others() -> None:
    inner = MemoryStore()
    store = EncryptedStore(inner, [NEW])
    records = [new_record() for _ in range(2)]
    for record in records:
        claim(store, record)
    one, other = (inner._records[record.id].claim.fingerprint for record in records)
    assert one != other


def test_a_fingerprint_that_is_moved_to_another_record_refuses() -> None:
    inner, one, other = MemoryStore(), new_record(), new_record()
    store = EncryptedStore(inner, [NEW])
    claim(store, one)
    claim(store, other, OTHER_FINGERPRINT)
    found = inner._records[one.id]
    found.claim = replace(found.claim, fingerprint=inner._records[other.id].claim.fingerprint)
    with pytest.raises(StoreUnavailable, match="fingerprint"):
        claim(store, one)

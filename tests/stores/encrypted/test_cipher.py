"""The cipher that the store and what lies beside it share: what it wrote once stays readable, and keys are keys."""

from typing import Any

import pytest
from flask import Flask

from flask_idempotency import Idempotency
from flask_idempotency.engine.records import RecordKey
from flask_idempotency.stores import EncryptedStore, MemoryStore
from flask_idempotency.stores.cipher import Cipher, Undecipherable

KEYS, IDS, OWNER = ["pinned-key-" * 4], "pinned-ids-" * 4, b"owner"


def test_what_is_on_disk_stays_readable() -> None:
    """Pinned: a change here makes every record that anybody has kept unreadable."""
    cipher = Cipher(KEYS, id_key=IDS)
    kept = bytes.fromhex("d7d37c5a000102030405060708090a0b241a0f5c0dc6413614b0a3ec9b6e4808a95500498cca")
    alike = bytes.fromhex("d7d37c5a5c84a2421a19116cc197da63d1b6a4e8d6157b5913a4ec8db44cda")
    assert cipher.decrypt(kept, OWNER) == b"answer"
    assert cipher.decrypt_alike(alike, OWNER) == b"fingerprint"
    assert cipher.encrypt_alike(b"fingerprint", OWNER) == alike
    assert cipher.kept_id(bytes(16)).hex() == "ee5dcdda37cace8da7061e2a5269659e"


def test_the_same_answer_looks_different_each_time() -> None:
    cipher = Cipher(KEYS)
    written = [cipher.encrypt(b"answer", OWNER) for _ in range(2)]
    assert written[0] != written[1]
    assert [cipher.decrypt(each, OWNER) for each in written] == [b"answer"] * 2


@pytest.mark.parametrize("length", range(40))
def test_what_is_cut_short_anywhere_is_undecipherable(length: int) -> None:
    cipher = Cipher(KEYS)
    for write, read in ((cipher.encrypt, cipher.decrypt), (cipher.encrypt_alike, cipher.decrypt_alike)):
        written = write(b"an answer of some length", OWNER)
        with pytest.raises(Undecipherable):
            read(written[:length], OWNER)


def test_each_way_of_reading_reads_what_its_own_way_of_writing_wrote() -> None:
    cipher = Cipher(KEYS)
    for written, read in (
        (cipher.encrypt(b"answer", OWNER), cipher.decrypt_alike),
        (cipher.encrypt_alike(b"answer", OWNER), cipher.decrypt),
    ):
        with pytest.raises(Undecipherable):
            read(written, OWNER)


def app_with(**config: Any) -> Flask:
    app = Flask(__name__)
    app.config.update({f"IDEMPOTENCY_{name}": value for name, value in config.items()})
    return app


def test_the_configuration_reaches_the_key_of_the_identities() -> None:
    inner, record = MemoryStore(), RecordKey.of(b"principal", "key")
    app = app_with(ENCRYPTION_KEYS=KEYS, ENCRYPTION_ID_KEY=IDS)
    Idempotency(app, store=inner)
    app.extensions["idempotency"].engine.store.claim(
        record, b"f", lease=60.0, retention=60.0, take_over=True, durable=False
    )
    assert list(inner._records) == [EncryptedStore(MemoryStore(), KEYS, id_key=IDS).cipher.kept_id(record.id)]
    assert list(inner._records) != [record.id]


def test_the_key_of_the_identities_alone_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="needs IDEMPOTENCY_ENCRYPTION_KEYS"):
        Idempotency(app_with(ENCRYPTION_ID_KEY=IDS), store=MemoryStore())
    Idempotency(app_with(ENCRYPTION_ID_KEY=None), store=MemoryStore())


@pytest.mark.parametrize("id_key", ["", "short"])
def test_a_key_of_the_identities_that_can_be_guessed_is_refused_where_it_is_written(id_key: str) -> None:
    with pytest.raises(ValueError, match="32 characters"):
        Idempotency(app_with(ENCRYPTION_KEYS=KEYS, ENCRYPTION_ID_KEY=id_key), store=MemoryStore())


def test_no_key_shows_in_a_repr_or_an_error() -> None:
    store = EncryptedStore(MemoryStore(), KEYS, id_key=IDS)
    assert "pinned" not in repr(store) + repr(store.cipher)
    with pytest.raises(Undecipherable) as caught:
        Cipher(["another-key-" * 4]).decrypt(store.cipher.encrypt(b"answer", OWNER), OWNER)
    assert "pinned" not in str(caught.value)

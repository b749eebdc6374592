"""Encryption at rest: the contract holds, nothing is readable, keys rotate, and doubt refuses."""

import itertools
import re
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_idempotency import Idempotency
from flask_idempotency.engine.records import Claim, Claimed, Completed, InProgress, Lapsed, RecordKey, StoredResponse
from flask_idempotency.engine.store import RecordUnreadable, Store
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


def claim(
    store: Store, record: Any, fingerprint: bytes = FINGERPRINT, lease: float = 60.0, *, take_over: bool = True
) -> Any:
    return store.claim(record, fingerprint, lease=lease, retention=DAY, take_over=take_over, durable=False)


def keep(store: Store, record: Any, response: StoredResponse = RESPONSE) -> None:
    assert store.complete(claim(store, record).claim, response, retention=DAY)


class TestUnderSeveralKeys(EmbeddedStoreContract):
    """Each call may come from a process that has the new key already, or not yet."""

    @pytest.fixture(autouse=True)
    def the_only_store(self) -> None:
        inner = MemoryStore()
        self.stores = itertools.cycle([EncryptedStore(inner, [NEW, OLD]), EncryptedStore(inner, [OLD, NEW])])

    def open_store(self) -> Store:
        return TakesTurns(self.stores)


class TakesTurns:
    """A store each of whose methods is the next one's of several."""

    def __init__(self, stores: Iterator[Store]) -> None:
        self._stores = stores

    def __getattr__(self, name: str) -> Any:
        return getattr(next(self._stores), name)


def test_nothing_of_a_request_can_be_read_from_the_file(tmp_path: Path) -> None:
    app = Flask(__name__)
    app.config["IDEMPOTENCY_STORE_URL"] = f"sqlite:///{tmp_path / 'records.db'}"
    app.config["IDEMPOTENCY_ENCRYPTION_KEYS"] = [NEW]
    idempotency = Idempotency(app)

    @app.post("/secret-path")
    def index() -> tuple[str, int, dict[str, str]]:
        assert idempotency.step("secret-step", lambda: "the secret result") == "the secret result"
        return "the secret body", 201, {"X-Secret-Header": "the secret value"}

    request = {"headers": {"Idempotency-Key": "the-secret-key", "Authorization": "Bearer secret"}, "data": "the secret"}
    answers = [app.test_client().post("/secret-path", **request) for _ in range(2)]
    assert answers[0].data == answers[1].data == b"the secret body"
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not re.search(rb"secret", on_disk, re.IGNORECASE)


def test_nothing_of_a_request_reaches_the_store_while_it_runs_or_when_its_record_is_written_anew() -> None:
    reached = Overhears()
    store = EncryptedStore(reached, [NEW])
    record = RecordKey.of(b"secret principal", "secret-key", method="PATCH", path="/secret")
    held = Claim(record, b"secret fingerprint", b"token")
    with suppress(StopHere):
        store.claim(record, held.fingerprint, lease=1, retention=1, take_over=True, durable=True)
    for call in (
        lambda: store.answering(held, lease=1),
        lambda: store.complete(held, StoredResponse("200 secret", (("X-Secret", "secret"),), b"secret"), retention=1),
        lambda: store.complete(held, None, retention=1),
        lambda: store.release(held, retention=1),
        lambda: store.abandon(held),
        lambda: store.renew([held], lease=1),
        lambda: store.load_steps(held),
        lambda: store.keep_step(held, "secret step", None, retention=1),
        lambda: store.keep_step(held, "secret step", b"secret result", retention=1),
        lambda: store.drop_step(held, "secret step"),
    ):
        with suppress(StopHere):
            call()
    assert len(reached.heard) == 11
    assert not re.search("secret|PATCH", repr(reached.heard), re.IGNORECASE)


class StopHere(Exception):
    pass


class Overhears:
    """Hears what is asked of it, to the last byte, and answers nothing."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def __getattr__(self, name: str) -> Any:
        def hear(*arguments: Any, **options: Any) -> None:
            self.heard.append((name, [_spelt_out(each) for each in arguments], options))
            raise StopHere

        return hear


def _spelt_out(argument: Any) -> Any:
    """What a repr of the argument may leave out."""
    if isinstance(argument, RecordKey):
        return argument.id, argument.key, argument.method, argument.path
    if isinstance(argument, Claim):
        return _spelt_out(argument.record), argument.fingerprint, argument.token
    if isinstance(argument, str | bytes | StoredResponse | None):
        return argument
    return [_spelt_out(each) for each in argument]


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
    assert claim(rotated, record, OTHER_FINGERPRINT) == Lapsed(FINGERPRINT)
    assert claim(rotated, record, take_over=False) == Lapsed(FINGERPRINT)
    taken = claim(rotated, record)
    assert isinstance(taken, Claimed)
    assert (taken.lapsed, taken.number) == (True, 2)


def test_a_released_record_with_steps_under_a_retired_key_takes_the_same_payload_only() -> None:
    inner, record = MemoryStore(), new_record()
    old, rotated = EncryptedStore(inner, [OLD]), EncryptedStore(inner, [NEW, OLD])
    held = claim(old, record).claim
    old.keep_step(held, "charge", b"paid", retention=DAY)
    old.keep_step(held, "mail", None, retention=DAY)
    old.release(held, retention=DAY)
    assert claim(rotated, record, OTHER_FINGERPRINT) == Lapsed(FINGERPRINT)
    again = claim(rotated, record, take_over=False).claim
    assert rotated.load_steps(again) == {"charge": b"paid", "mail": None}
    rotated.keep_step(again, "charge", None, retention=DAY)
    rotated.keep_step(again, "mail", b"sent", retention=DAY)
    assert rotated.load_steps(again) == {"charge": b"paid", "mail": b"sent"}


def test_a_step_that_began_under_a_retired_key_is_forgotten_when_it_raises() -> None:
    inner, record = MemoryStore(), new_record()
    old, rotated = EncryptedStore(inner, [OLD]), EncryptedStore(inner, [NEW, OLD])
    held = claim(old, record).claim
    old.keep_step(held, "charge", None, retention=DAY)
    assert rotated.drop_step(held, "charge") is True
    assert rotated.load_steps(held) == {}


@pytest.mark.parametrize("result", [b"paid", None], ids=["kept", "began"])
def test_a_step_that_cannot_be_read_refuses(result: bytes | None) -> None:
    inner, record = MemoryStore(), new_record()
    held = claim(store := EncryptedStore(inner, [OLD]), record).claim
    store.keep_step(held, "charge", result, retention=DAY)
    with pytest.raises(RecordUnreadable, match="not under any of the known"):
        EncryptedStore(inner, [OTHER]).load_steps(held)
    inner._records[record.id].steps["no base64 at all"] = None
    with pytest.raises(RecordUnreadable):
        store.load_steps(held)


def test_a_result_that_is_moved_to_another_step_refuses() -> None:
    inner, record = MemoryStore(), new_record()
    held = claim(store := EncryptedStore(inner, [NEW]), record).claim
    for name, result in (("charge", b"paid"), ("mail", b"sent")):
        store.keep_step(held, name, result, retention=DAY)
    steps = inner._records[record.id].steps
    one, other = steps
    steps[one] = steps[other]
    with pytest.raises(RecordUnreadable):
        store.load_steps(held)


def test_with_several_keys_each_fenced_claim_is_told_as_the_one_that_was_asked_about() -> None:
    store = EncryptedStore(MemoryStore(), [NEW, OLD])
    held = claim(store, new_record()).claim
    fenced = replace(held, token=b"x" * 16)
    assert store.renew([held, fenced], lease=60) == {fenced}


@pytest.mark.parametrize("done", [True, False], ids=["completed", "in flight"])
def test_under_an_unknown_key_nothing_runs(done: bool) -> None:
    inner, record = MemoryStore(), new_record()
    old = EncryptedStore(inner, [OLD])
    if done:
        keep(old, record)
    else:
        claim(old, record, lease=1e-9)
    with pytest.raises(RecordUnreadable, match="not under any of the known"):
        claim(EncryptedStore(inner, [OTHER]), record)


@pytest.mark.parametrize(
    "spoil",
    [lambda b: b[:-1], lambda b: b[:30] + bytes([b[30] ^ 1]) + b[31:], lambda b: b[:3], lambda b: b""],
    ids=["cut", "another byte", "a stump", "nothing"],
)
def test_what_is_corrupted_refuses(spoil: Any) -> None:
    inner, record = MemoryStore(), new_record()
    store = EncryptedStore(inner, [NEW])
    keep(store, record)
    kept = inner._records[record.id]
    assert kept.response is not None
    kept.response = StoredResponse(kept.response.status, (), spoil(kept.response.body))
    with pytest.raises(RecordUnreadable):
        claim(store, record)


def test_an_answer_that_is_moved_to_another_record_refuses() -> None:
    inner, one, other = MemoryStore(), new_record(), new_record()
    store = EncryptedStore(inner, [NEW])
    keep(store, one)
    keep(store, other, StoredResponse("200 OK", (), b"another's"))
    inner._records[one.id].response = inner._records[other.id].response
    with pytest.raises(RecordUnreadable):
        claim(store, one)


def test_what_was_kept_before_there_were_keys_refuses(tmp_path: Path) -> None:
    plain, record = SQLiteStore(tmp_path / "records.db"), new_record()
    keep(plain, record)
    with pytest.raises(RecordUnreadable):
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

"""Encryption reaches what lies beside the store: proofs and kept requests are as unreadable, and doubt refuses."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import request
from sqlalchemy import Table, func, select, update
from sqlalchemy.schema import CreateTable

import flask_idempotency
from flask_idempotency.engine.records import RecordKey
from flask_idempotency.exactly_once import proof_table, request_table
from flask_idempotency.stores import EncryptedStore, MemoryStore
from tests.exactly_once.dying import DyingStore
from tests.exactly_once.shop import Shop

OLD, NEW, OTHER, IDS = "old-" * 10, "new-" * 10, "other" * 10, "ids-" * 10

#: Whatever must not be found in the tables.
SECRETS = (b"secret-body", b"secret-value", b"secret-key", b"secret-payload", b"secret-path", b"secret-context")


class Till:
    """A shop whose one view answers with secrets, and may be killed after its commit."""

    def __init__(self, url: str, keys: list[str] | None, *, store: Any = None, fresh: bool = True, **more: Any) -> None:
        config = dict(more.pop("config", {}))
        if keys is not None:
            config["IDEMPOTENCY_ENCRYPTION_KEYS"] = keys
        self.inner = DyingStore() if store is None else store
        context: Any = lambda: {"user": "secret-context"}  # noqa: E731
        options = {"keep_request": context, "completable": True, "lease": 60.0} | more
        self.shop = shop = Shop(url, self.inner, config=config, fresh=fresh, **options)
        self.runs = 0
        self.in_view: Callable[[], object] = lambda: None

        def view(_: str) -> Any:
            self.runs += 1
            shop.db.session.add(shop.Order(item=request.get_json()["item"]))
            shop.db.session.commit()
            self.in_view()
            return {"said": "secret-body"}, 201, {"X-Secret": "secret-value"}

        shop.app.add_url_rule("/<path:_>", "orders", view, methods=["POST"])
        with shop.app.app_context():
            self.proofs = proof_table(shop.db.metadata)
            self.requests = request_table(shop.db.metadata)
            if fresh:
                for table in (self.proofs, self.requests):
                    table.drop(shop.db.engine, checkfirst=True)

    def again(self, keys: list[str] | None, **more: Any) -> "Till":
        """The same till, with another configuration."""
        url = self.shop.app.config["SQLALCHEMY_DATABASE_URI"]
        return Till(url, keys, store=self.inner, fresh=False, **more)

    def ask(self, key: str = "secret-key", item: str = "secret-payload") -> Any:
        client = self.shop.app.test_client()
        return client.post("/secret-path", json={"item": item}, headers={"Idempotency-Key": key})

    def commit_and_die(self, key: str = "secret-key", **more: Any) -> None:
        """Commit rows and proof, and never complete the record."""
        self.inner.dead = True
        assert self.ask(key, **more).status_code == 201
        self.inner.die()

    def die_in_the_view(self, key: str = "secret-key", **more: Any) -> None:
        """Leave a kept request, and nothing else."""

        class Killed(BaseException):
            pass

        def kill() -> None:
            raise Killed

        hooks = self.shop.app.extensions["idempotency"]
        self.in_view = kill
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hooks.engine, "release", lambda attempt: True)
            with pytest.raises(Killed):
                self.ask(key, **more)
        self.in_view = lambda: None
        self.inner.die()
        self.change(self.requests, due_at=0)

    def rows(self, table: Table) -> list[dict[str, Any]]:
        with self.shop.app.app_context(), self.shop.db.engine.connect() as connection:
            return [dict(row) for row in connection.execute(select(table)).mappings()]

    def change(self, table: Table, where: bytes | None = None, **values: Any) -> None:
        changed = update(table).values(values)
        if where is not None:
            changed = changed.where(table.c.record_id == where)
        with self.shop.app.app_context(), self.shop.db.engine.begin() as connection:
            connection.execute(changed)

    def complete(self) -> tuple[int, list[str]]:
        done = self.shop.app.test_cli_runner().invoke(args=["idempotency", "complete"])
        return done.exit_code, done.output.splitlines()


def is_refused(answer: Any) -> bool:
    return (answer.status_code, str(answer.json["type"]).rpartition("#")[2]) == (503, "store-unavailable")


def test_of_answers_and_requests_nothing_can_be_read_from_the_tables(database_url: str) -> None:
    till = Till(database_url, [NEW])
    seen: list[dict[str, Any]] = []
    till.in_view = lambda: seen.extend(till.rows(till.requests))
    assert till.ask().status_code == 201
    seen += till.rows(till.proofs)
    assert len(seen) == 2
    raw = b"".join(bytes(value) for row in seen for value in row.values() if isinstance(value, bytes | memoryview))
    raw += repr([value for row in seen for value in row.values() if not isinstance(value, bytes)]).encode()
    assert len(raw) > 300
    assert [secret for secret in SECRETS if secret in raw.lower()] == []


def test_without_keys_they_can_be_read(database_url: str) -> None:
    """So the test before this one can fail."""
    till = Till(database_url, None)
    seen: list[bytes] = []
    till.in_view = lambda: seen.extend(bytes(row["request"]) for row in till.rows(till.requests))
    till.ask()
    seen += [bytes(row["response"]) for row in till.rows(till.proofs)]
    assert [secret for secret in SECRETS if not any(secret in value for value in seen)] == []


def test_no_file_of_the_database_has_a_trace(tmp_path: Path) -> None:
    till = Till(f"sqlite:///{tmp_path / 'shop.db'}", [NEW])
    till.commit_and_die(item="public")
    till.die_in_the_view("secret-key-2", item="secret-payload")
    on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert [secret for secret in SECRETS if secret in on_disk.lower()] == []


def test_a_proof_under_a_retired_key_still_replays(database_url: str) -> None:
    till = Till(database_url, [OLD])
    till.commit_and_die()
    rotated = till.again([NEW, OLD])
    answers = [rotated.ask() for _ in range(2)]
    for answer in answers:
        assert (answer.status_code, answer.json) == (201, {"said": "secret-body"})
        assert (answer.headers["X-Secret"], answer.headers["Idempotent-Replayed"]) == ("secret-value", "true")
    assert rotated.runs == 0
    assert rotated.shop.items() == ["secret-payload"]


def test_a_proof_under_a_retired_key_still_tells_another_payload(database_url: str) -> None:
    till = Till(database_url, [OLD], keep_request=False)
    till.commit_and_die()
    till.inner._records.clear()  # the store has lost the record, so only the proof knows the payload
    rotated = till.again([NEW, OLD], keep_request=False)
    assert rotated.ask(item="another").status_code == 422
    assert rotated.shop.items() == ["secret-payload"]


def spoil(till: Till) -> None:
    (row,) = till.rows(till.proofs)
    response = bytearray(row["response"])
    response[40] ^= 1
    till.change(till.proofs, response=bytes(response))


def cut_short(till: Till) -> None:
    (row,) = till.rows(till.proofs)
    till.change(till.proofs, response=bytes(row["response"])[:3])


def spoil_fingerprint(till: Till) -> None:
    till.change(till.proofs, fingerprint=b"?" * 48)


def swap(till: Till) -> None:
    till.commit_and_die("another-key")
    one, other = till.rows(till.proofs)
    for here, there in ((one, other), (other, one)):
        till.change(till.proofs, here["record_id"], response=there["response"], fingerprint=there["fingerprint"])


@pytest.mark.parametrize("harm", [spoil, cut_short, spoil_fingerprint, swap])
def test_a_proof_that_was_touched_refuses_and_nothing_runs(database_url: str, harm: Any) -> None:
    till = Till(database_url, [NEW])
    till.commit_and_die()
    harm(till)
    committed = till.shop.items()
    after = till.again([NEW])
    for _ in range(3):
        assert is_refused(after.ask())
        after.inner.let_leases_end()  # again and again: the claim is never given back to run afresh
    assert after.runs == 0
    assert after.shop.items() == committed


@pytest.mark.parametrize(("before", "after"), [([OLD], [OTHER]), (None, [NEW]), ([NEW], None)])
def test_a_proof_that_cannot_be_read_refuses_until_it_can(database_url: str, before: Any, after: Any) -> None:
    """An unknown key; encryption switched on over plain proofs, and off over encrypted ones."""
    till = Till(database_url, before)
    till.commit_and_die()
    changed = till.again(after)
    let_the_store_be_readable(changed)
    for _ in range(2):
        assert is_refused(changed.ask())
        changed.inner.let_leases_end()
    assert changed.runs == 0
    assert changed.shop.items() == ["secret-payload"]
    mended = till.again(before)
    let_the_store_be_readable(mended)
    assert mended.ask().json == {"said": "secret-body"}
    assert mended.shop.items() == ["secret-payload"]


def let_the_store_be_readable(till: Till) -> None:
    """Leave a lapsed claim under this configuration: it is the proof alone that is not."""
    till.inner._records.clear()
    record, fingerprint = identity_of_the_request(till)
    store = till.shop.app.extensions["idempotency"].engine.store
    store.claim(record, fingerprint, lease=60.0, retention=3600.0, take_over=True, durable=True)
    till.inner.let_leases_end()


def identity_of_the_request(till: Till) -> tuple[RecordKey, bytes]:
    seen: list[tuple[RecordKey, bytes]] = []
    engine = till.shop.app.extensions["idempotency"].engine
    begin = engine.begin

    class Seen(BaseException):
        pass

    def look(*, key: str, principal: bytes, fingerprint: bytes, **_: Any) -> Any:
        seen.append((RecordKey.of(principal, key, namespace=engine.namespace), fingerprint))
        raise Seen

    engine.begin = look
    try:
        with pytest.raises(Seen):
            till.ask()
    finally:
        engine.begin = begin
    return seen[0]


def test_a_row_that_cannot_be_read_keeps_the_view_from_committing_even_if_the_store_forgot(database_url: str) -> None:
    till = Till(database_url, [OLD], keep_request=False)
    till.commit_and_die()
    till.inner._records.clear()
    other = till.again([OTHER], keep_request=False)
    assert is_refused(other.ask())
    assert other.runs == 1  # nothing had said so before it ran, but it has left nothing
    other.inner.die()
    assert is_refused(other.ask())
    assert other.runs == 1  # from then on, it is known
    assert other.shop.items() == ["secret-payload"]


def test_the_completer_reads_encrypted_requests(database_url: str) -> None:
    till = Till(database_url, [OLD])
    till.die_in_the_view()
    assert till.shop.items() == []
    rotated = till.again([NEW, OLD])
    assert rotated.complete() == (0, ["1 completed, 0 in progress or refused, 0 failed"])
    assert rotated.shop.items() == ["secret-payload"]
    assert rotated.rows(rotated.requests) == []
    assert rotated.ask().headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize(("before", "after"), [([OLD], [OTHER]), (None, [NEW]), ([NEW], None)])
def test_a_kept_request_that_cannot_be_read_is_left_until_it_can(database_url: str, before: Any, after: Any) -> None:
    till = Till(database_url, before)
    till.die_in_the_view()
    changed = till.again(after)
    exit_code, lines = changed.complete()
    assert (exit_code, lines[0]) == (1, "0 completed, 0 in progress or refused, 1 failed")
    assert "IDEMPOTENCY_ENCRYPTION_KEYS" in lines[1]
    assert changed.runs == 0
    assert changed.shop.items() == []
    mended = till.again(before)
    mended.change(mended.requests, due_at=0)
    assert mended.complete()[0] == 0
    assert mended.shop.items() == ["secret-payload"]


@pytest.mark.parametrize("keys", [[NEW], None], ids=["encrypted", "plain"])
def test_a_request_that_was_moved_to_another_row_is_left(database_url: str, keys: Any) -> None:
    till = Till(database_url, keys)
    till.die_in_the_view("one")
    till.die_in_the_view("other", item="another")
    one, other = till.rows(till.requests)
    till.change(till.requests, one["record_id"], request=other["request"])
    exit_code, lines = till.complete()
    assert (exit_code, lines[0]) == (1, "1 completed, 0 in progress or refused, 1 failed")
    assert len(till.rows(till.requests)) == 1


def test_an_unreadable_request_does_not_keep_others_from_being_finished(database_url: str) -> None:
    till = Till(database_url, [NEW])
    till.die_in_the_view("one")
    till.die_in_the_view("other")
    first = till.rows(till.requests)[0]["record_id"]
    till.change(till.requests, first, request=b"?")
    assert till.complete()[1][0] == "1 completed, 0 in progress or refused, 1 failed"


@pytest.mark.parametrize("id_key", [None, IDS])
def test_a_guess_of_principal_and_key_can_be_tested_without_id_key_only(database_url: str, id_key: str | None) -> None:
    till = Till(database_url, [NEW], config={"IDEMPOTENCY_ENCRYPTION_ID_KEY": id_key})
    seen: list[bytes] = []
    till.in_view = lambda: seen.extend(bytes(row["record_id"]) for row in till.rows(till.requests))
    till.ask()
    seen += [bytes(row["record_id"]) for row in till.rows(till.proofs)]
    seen += list(till.inner._records)
    guess = identity_of_the_request(till)[0].id
    assert [row_id == guess for row_id in seen] == [id_key is None] * 3


def test_with_id_key_proofs_are_found_and_requests_are_finished(database_url: str) -> None:
    till = Till(database_url, [NEW], config={"IDEMPOTENCY_ENCRYPTION_ID_KEY": IDS})
    till.commit_and_die()
    assert till.ask().headers["Idempotent-Replayed"] == "true"
    till.die_in_the_view("another")
    assert till.complete()[0] == 0
    assert till.runs == 3
    assert till.ask("another").headers["Idempotent-Replayed"] == "true"


def test_a_store_that_was_wrapped_by_hand_encrypts_them_too(database_url: str) -> None:
    shop = Shop(database_url, EncryptedStore(MemoryStore(), [NEW]))
    shop.app.add_url_rule("/", "orders", lambda: "secret-body", methods=["POST"])
    assert shop.app.test_client().post("/", headers={"Idempotency-Key": "k"}).status_code == 200
    with shop.app.app_context(), shop.db.engine.connect() as connection:
        (response,) = connection.execute(select(shop.proof_table.c.response)).scalars()
    assert b"secret-body" not in bytes(response)


def test_encryption_enlarges_no_column_beyond_what_it_takes(mariadb_url: str) -> None:
    """MariaDB alone has limits: the fingerprint with what encryption adds to it must fit."""
    till = Till(mariadb_url, [NEW], keep_request=False)
    till.ask()
    with till.shop.app.app_context(), till.shop.db.engine.connect() as connection:
        (length,) = connection.execute(select(func.length(till.proofs.c.fingerprint))).scalars()
        assert length <= 64
        assert "VARBINARY(64)" in str(CreateTable(till.proofs).compile(dialect=connection.dialect))


def test_the_driver_of_encryption_is_imported_by_the_cipher_alone() -> None:
    importers = set()
    root = Path(flask_idempotency.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "cryptography" for name in names):
                importers.add(path.relative_to(root).as_posix())
    assert importers == {"stores/cipher.py"}

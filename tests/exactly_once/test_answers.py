"""What an atomic view may answer, and what of it is proved, kept and heard again."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from flask import Blueprint, Response, abort, redirect, request, stream_with_context
from freezegun import freeze_time
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from flask_idempotency.exactly_once.joined import OuterTransaction
from flask_idempotency.exactly_once.proofs import Proofs
from flask_idempotency.stores import MemoryStore
from tests.exactly_once.dying import DyingStore
from tests.exactly_once.shop import Shop

KEY = {"Idempotency-Key": "order-1"}


@pytest.fixture
def store() -> DyingStore:
    return DyingStore()


def serve(shop: Shop, answer: Any) -> Any:
    """A client of a view that orders a book and gives this answer."""

    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        return answer() if callable(answer) else answer

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    return shop.app.test_client()


def kind(answer: Any) -> str:
    return str(answer.json["type"]).rpartition("#")[2]


@pytest.mark.parametrize("status", [200, 204, 302, 400, 409, 422, 500, 503])
@pytest.mark.parametrize("keep", ["success", "all"])
def test_the_rows_of_an_answer_stand_unless_it_says_that_the_server_failed(
    database_url: str, store: DyingStore, keep: Any, status: int
) -> None:
    shop = Shop(database_url, store, keep=keep)
    client = serve(shop, ("" if status == 204 else "answer", status))
    kept = status < 400 or (keep == "all" and status != 503)
    assert client.post("/orders", headers=KEY).status_code == status
    stand = status < 500
    first = ["done" if kept else "released"] if stand else []
    assert (shop.items(), shop.kinds()) == (["book"] if stand else [], first)
    again = client.post("/orders", headers=KEY)
    assert (again.status_code, "Idempotent-Replayed" in again.headers) == (status, kept)
    assert shop.items() == (["book"] * (1 if kept else 2) if stand else [])


@pytest.mark.parametrize("status", [201, 402])
def test_a_view_that_leaves_with_its_answer_has_answered(database_url: str, store: DyingStore, status: int) -> None:
    shop = Shop(database_url, store)
    client = serve(shop, lambda: abort(Response("answer", status)))
    heard = [client.post("/orders", headers=KEY) for _ in range(2)]
    assert [(each.status_code, each.data) for each in heard] == [(status, b"answer")] * 2
    assert ("Idempotent-Replayed" in heard[1].headers) is (status == 201)
    assert (shop.items(), shop.kinds()) == ((["book"], ["done"]) if status == 201 else (["book"] * 2, ["released"]))


@pytest.mark.parametrize("keep", ["success", "all"])
def test_an_exception_undoes_the_rows_whatever_the_policy_keeps_of_its_answer(
    database_url: str, store: DyingStore, keep: Any
) -> None:
    shop = Shop(database_url, store, keep=keep)
    client = serve(shop, lambda: abort(403))
    heard = [client.post("/orders", headers=KEY) for _ in range(2)]
    assert [each.status_code for each in heard] == [403, 403]
    assert ("Idempotent-Replayed" in heard[1].headers) is (keep == "all")
    assert (shop.items(), shop.proofs()) == ([], 0)


def test_no_error_handler_makes_a_success_of_what_was_undone(database_url: str, store: DyingStore) -> None:
    shop = Shop(database_url, store)
    statuses = [201, 418]
    shop.app.register_error_handler(ZeroDivisionError, lambda error: ("handled", statuses.pop(0)))

    @shop.app.after_request
    def log(response: Any) -> Any:
        response.headers["X-Seen"] = str(response.status_code)
        return response

    client = serve(shop, lambda: 1 // 0)
    for status in (500, 418):
        heard = client.post("/orders", headers=KEY)
        assert (heard.status_code, heard.headers["X-Seen"]) == (status, str(status))
    assert (shop.items(), shop.proofs()) == ([], 0)


def test_a_redirect_by_which_an_error_handler_answers_goes_out_and_is_not_kept(
    database_url: str, store: DyingStore
) -> None:
    shop = Shop(database_url, store)
    errors: list[type[Exception]] = [ZeroDivisionError]
    shop.app.register_error_handler(ZeroDivisionError, lambda error: redirect("/again"))

    def answer() -> Any:
        if errors:
            raise errors.pop()
        return "answer", 201

    client = serve(shop, answer)
    assert [client.post("/orders", headers=KEY).status_code for _ in range(3)] == [302, 201, 201]
    assert (shop.items(), shop.kinds()) == (["book"], ["done"])


def test_a_streamed_answer_begins_after_the_commit_and_is_kept_once_it_ended(
    database_url: str, store: DyingStore
) -> None:
    shop = Shop(database_url, store)
    seen: list[list[str]] = []

    def stream() -> Any:
        def chunks() -> Any:
            seen.append(shop.items())
            yield "a"
            yield str(shop.db.session.query(shop.Order).count())

        return Response(stream_with_context(chunks()), 201)

    client = serve(shop, stream)
    first, again = (client.post("/orders", headers=KEY, buffered=True) for _ in range(2))
    assert first.data == again.data == b"a1"
    assert again.headers["Idempotent-Replayed"] == "true"
    assert seen == [["book"]]  # by another connection, before the first byte
    assert (shop.items(), shop.proofs()) == (["book"], 1)


@pytest.mark.parametrize("answer", ["streamed", "too large"])
def test_where_only_the_proof_is_left_of_an_answer_that_it_does_not_have_nothing_runs_again(
    database_url: str, store: DyingStore, answer: str
) -> None:
    shop = Shop(database_url, store, max_response_bytes=10)
    client = serve(shop, (lambda: Response(iter(["a", "b"]), 201)) if answer == "streamed" else ("a" * 11, 201))
    store.dead = True
    assert client.post("/orders", headers=KEY, buffered=True).status_code == 201
    store.die()
    for _ in range(2):
        refused = client.post("/orders", headers=KEY)
        assert (refused.status_code, kind(refused)) == (409, "response-not-kept")
    assert (shop.items(), shop.proofs()) == (["book"], 1)


def test_a_stream_that_breaks_off_does_not_undo_the_rows(database_url: str, store: DyingStore) -> None:
    shop = Shop(database_url, store)

    def stream() -> Any:
        def chunks() -> Any:
            yield "a"
            raise ZeroDivisionError

        return Response(chunks(), 201)

    client = serve(shop, stream)
    with pytest.raises(ZeroDivisionError):
        client.post("/orders", headers=KEY, buffered=True)
    refused = client.post("/orders", headers=KEY)
    assert (refused.status_code, kind(refused)) == (409, "response-not-kept")
    assert shop.items() == ["book"]


def test_what_the_hooks_of_its_blueprint_make_of_an_answer_is_the_same_each_time_it_is_heard(
    database_url: str, store: DyingStore
) -> None:
    shop = Shop(database_url, store)
    blueprint = Blueprint("shop", __name__)

    @blueprint.after_request
    def note(response: Any) -> Any:
        response.headers.add("X-Seen", "once")
        return response

    @blueprint.post("/orders")
    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        return "answer", 201

    shop.app.register_blueprint(blueprint)
    client = shop.app.test_client()
    store.dead = True
    heard = [client.post("/orders", headers=KEY)]
    store.die()
    heard += [client.post("/orders", headers=KEY) for _ in range(2)]  # by the proof, then by the record
    assert [(each.status_code, each.data, each.headers.getlist("X-Seen")) for each in heard] == [
        (201, b"answer", ["once"])
    ] * 3
    assert [each.headers.get("Idempotent-Replayed") for each in heard] == [None, "true", "true"]
    assert shop.items() == ["book"]


def test_an_attempt_whose_claim_was_fenced_but_which_committed_is_answered_for(
    database_url: str, store: DyingStore
) -> None:
    """Its rows stand, so its answer counts, whatever the store says."""
    shop = Shop(database_url, store, lease=60.0)
    client = serve(shop, lambda: (store._records.clear(), ("answer", 201))[1])
    heard = [client.post("/orders", headers=KEY) for _ in range(3)]
    assert [(each.status_code, each.data) for each in heard] == [(201, b"answer")] * 3
    assert (shop.items(), shop.proofs()) == (["book"], 1)


def test_a_changed_payload_does_not_run_under_a_proof(database_url: str, store: DyingStore) -> None:
    shop = Shop(database_url, store)
    client = serve(shop, ("answer", 201))
    client.post("/orders", headers=KEY, data="a")
    store._records.clear()
    changed = client.post("/orders", headers=KEY, data="b")
    assert (changed.status_code, kind(changed)) == (422, "idempotency-key-reused")
    assert client.post("/orders", headers=KEY, data="a").headers["Idempotent-Replayed"] == "true"
    assert (shop.items(), shop.proofs()) == (["book"], 1)


def test_after_its_retention_a_key_is_new_though_nobody_swept_the_proof_up(database_url: str) -> None:
    shop = Shop(database_url, MemoryStore(), retention=60)
    client = serve(shop, lambda: (str(shop.db.session.query(shop.Order).count()), 201))
    with freeze_time("2026-11-24 12:00:00"):
        assert client.post("/orders", headers=KEY).data == b"1"
    with freeze_time("2026-11-24 12:02:00"):
        heard = [client.post("/orders", headers=KEY) for _ in range(2)]
    assert [(each.status_code, each.data) for each in heard] == [(201, b"2")] * 2
    assert (shop.items(), shop.proofs()) == (["book", "book"], 1)


def test_an_expired_proof_that_is_swept_up_meanwhile_is_not_in_the_way(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(postgresql_url, MemoryStore(), retention=60)
    client = serve(shop, ("answer", 201))
    drop = Proofs._drop_expired

    def drop_late(proofs: Proofs, connection: Any, row_id: bytes) -> Any:
        with connection.engine.begin() as other:
            proofs.sweep(other)
        return drop(proofs, connection, row_id)

    monkeypatch.setattr(Proofs, "_drop_expired", drop_late)
    for moment in ("2026-11-24 12:00:00", "2026-11-24 12:02:00"):
        with freeze_time(moment):
            assert client.post("/orders", headers=KEY).status_code == 201
    assert (shop.items(), shop.proofs()) == (["book", "book"], 1)


def test_strangers_that_prove_at_the_same_time_do_not_meet(database_url: str) -> None:
    """MariaDB locks gaps: a look for a proof that is not there yet would make all of them deadlock."""
    if database_url.startswith("sqlite"):
        pytest.skip("on SQLite there is one writer")
    shop = Shop(database_url, MemoryStore(), engine_options={"pool_size": 8})
    together = Barrier(8)

    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        together.wait(timeout=60)
        return "answer", 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])

    def ask(number: int) -> int:
        status: int = shop.app.test_client().post("/orders", headers={"Idempotency-Key": str(number)}).status_code
        return status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(ask, range(40)))
    assert statuses == [201] * 40
    assert shop.proofs() == 40


class Lost:
    """A commit whose reply is lost, and a database that is out of reach until it is `found`."""

    def __init__(self, shop: Shop, patch: pytest.MonkeyPatch, *, committed: bool) -> None:
        self.found = True
        commit, find = OuterTransaction.commit, Proofs._look

        def lose(outer: OuterTransaction) -> None:
            if self.found:
                commit(outer)
                return
            if committed:
                commit(outer)
            else:
                outer.commit_sent = True
                outer.roll_back()
            raise OperationalError("COMMIT", {}, ConnectionError("lost"), connection_invalidated=True)

        def look(proofs: Proofs, *args: Any) -> Any:
            if not self.found:
                raise OperationalError("SELECT", {}, ConnectionError("lost"))
            return find(proofs, *args)

        patch.setattr(OuterTransaction, "commit", lose)
        patch.setattr(Proofs, "_look", look)


@pytest.mark.parametrize("committed", [True, False])
def test_where_nobody_can_say_whether_it_committed_the_next_attempt_looks_before_anything_runs(
    database_url: str, store: DyingStore, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    shop = Shop(database_url, store, lease=60.0)
    runs: list[None] = []
    client = serve(shop, lambda: (runs.append(None), (f"run {len(runs)}", 201))[1])
    lost = Lost(shop, monkeypatch, committed=committed)
    lost.found = False
    first = client.post("/orders", headers=KEY)
    assert (first.status_code, kind(first)) == (503, "store-unavailable")
    assert int(first.headers["Retry-After"]) > 0
    # The claim was not given back: until it lapses, and for as long as nobody can look, nothing runs.
    assert kind(client.post("/orders", headers=KEY)) == "request-in-progress"
    store.let_leases_end()
    assert kind(client.post("/orders", headers=KEY)) == "store-unavailable"
    assert len(runs) == 1
    lost.found = True
    store.let_leases_end()
    found = client.post("/orders", headers=KEY)
    assert (found.status_code, found.data) == (201, b"run 1" if committed else b"run 2")
    assert (shop.items(), shop.proofs()) == (["book"], 1)


def test_an_answer_does_not_reach_the_log_where_its_proof_cannot_be_written(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(database_url, MemoryStore())
    client = serve(shop, ("the secret answer", 201))
    client.post("/orders", headers={"Idempotency-Key": "another"})  # the table is there by now
    with shop.app.app_context(), shop.db.engine.begin() as connection:
        connection.execute(text("DROP TABLE idempotency_proofs"))
    with caplog.at_level(logging.DEBUG):
        assert client.post("/orders", headers=KEY).status_code == 500
    assert "idempotency_proofs" in caplog.text
    assert "secret" not in caplog.text
    assert shop.items() == ["book"]


def test_a_conflict_at_the_outer_commit_itself_is_one_too(postgresql_url: str, store: DyingStore) -> None:
    """Under SERIALIZABLE, PostgreSQL may say so at the very end."""
    shop = Shop(postgresql_url, store, engine_options={"isolation_level": "SERIALIZABLE"}, on_conflict="rerun")
    with shop.app.app_context():
        shop.db.session.add_all([shop.Order(id=1, item="a"), shop.Order(id=2, item="b")])
        shop.db.session.commit()
    runs: list[None] = []
    failed: list[str] = []

    def note(context: Any) -> None:
        failed.append("COMMIT" if context.statement is None else context.statement)

    with shop.app.app_context():
        event.listen(shop.db.engine, "handle_error", note)

    def view() -> Any:
        # Write skew: this one reads 1 and writes 2, the other reads 2 and writes 1, and is done first.
        runs.append(None)
        item = shop.db.session.get(shop.Order, 1).item
        if len(runs) == 1:
            with shop.db.engine.begin() as other:
                other.execute(text("SELECT item FROM orders WHERE id = 2")).all()
                other.execute(text("UPDATE orders SET item = 'A' WHERE id = 1"))
        shop.db.session.get(shop.Order, 2).item = item + "!"
        shop.db.session.commit()
        return item, 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    heard = shop.app.test_client().post("/orders", headers=KEY)
    assert (heard.status_code, heard.data) == (201, b"A")
    assert len(runs) == 2
    assert len(failed) == 1
    assert shop.items() == ["A", "A!"]


def test_a_rerun_reads_the_same_body_and_leaves_one_set_of_rows(database_url: str, store: DyingStore) -> None:
    shop = Shop(database_url, store, on_conflict="rerun")
    bodies: list[bytes] = []

    def view() -> Any:
        bodies.append(request.get_data())
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        if len(bodies) <= 3:
            raise OperationalError("UPDATE", {}, Deadlock())
        return "answer", 201

    class Deadlock(Exception):
        sqlstate = "40P01"

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    assert shop.app.test_client().post("/orders", headers=KEY, data="body").status_code == 201
    assert bodies == [b"body"] * 4
    assert (shop.items(), shop.proofs()) == (["book"], 1)


def test_a_rerun_that_never_succeeds_ends(database_url: str, store: DyingStore) -> None:
    shop = Shop(database_url, store, on_conflict="rerun")
    runs: list[None] = []

    class Deadlock(Exception):
        sqlstate = "40P01"

    def answer() -> Any:
        runs.append(None)
        raise OperationalError("UPDATE", {}, Deadlock())

    refused = serve(shop, answer).post("/orders", headers=KEY)
    assert (refused.status_code, kind(refused), len(runs)) == (503, "transaction-conflict", 4)
    assert (shop.items(), shop.proofs()) == ([], 0)


def test_a_lock_that_another_holds_too_long_is_a_conflict(mariadb_url: str, tmp_path: Path, store: DyingStore) -> None:
    places = {
        mariadb_url: {"connect_args": {"init_command": "SET SESSION innodb_lock_wait_timeout = 1"}},
        f"sqlite:///{tmp_path / 'shop.db'}": {"connect_args": {"timeout": 0.1}},
    }
    for number, (url, options) in enumerate(places.items()):
        shop = Shop(url, store, engine_options=options)
        key = {"Idempotency-Key": f"order-{number}"}
        with shop.app.app_context(), shop.db.engine.connect() as other:
            shop.db.session.add(shop.Order(id=1, item="theirs"))
            shop.db.session.commit()
            other.execute(text("UPDATE orders SET item = 'held' WHERE id = 1"))

            def view(shop: Shop = shop) -> Any:
                shop.db.session.get(shop.Order, 1).item = "ours"
                shop.db.session.commit()
                return "answer", 201

            shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
            refused = shop.app.test_client().post("/orders", headers=key)
            assert (refused.status_code, kind(refused)) == (503, "transaction-conflict")
            other.rollback()
            assert shop.app.test_client().post("/orders", headers=key).status_code == 201
        assert shop.items() == ["ours"]

"""Atomic views: the rows and the answer commit together, or not at all."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import abort
from sqlalchemy import event, text

from flask_idempotency.stores import MemoryStore
from tests.exactly_once.dying import DyingStore
from tests.exactly_once.shop import Shop

KEY = {"Idempotency-Key": "order-1"}


@pytest.fixture
def store() -> DyingStore:
    return DyingStore()


@pytest.fixture
def shop(database_url: str, store: DyingStore) -> Shop:
    return Shop(database_url, store)


def serve(shop: Shop, view: Any) -> Any:
    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    return shop.app.test_client()


def test_what_the_view_commits_and_its_answer_stand_together(shop: Shop) -> None:
    def view() -> Any:
        for item in ("book", "pen"):
            shop.db.session.add(shop.Order(item=item))
            shop.db.session.commit()
        return {"orders": shop.db.session.query(shop.Order).count()}, 201

    client = serve(shop, view)
    first, again = (client.post("/orders", headers=KEY) for _ in range(2))
    assert (first.status_code, first.json) == (201, {"orders": 2})
    assert (again.status_code, again.json, again.headers["Idempotent-Replayed"]) == (201, {"orders": 2}, "true")
    assert shop.items() == ["book", "pen"]
    assert shop.proofs() == 1


@pytest.mark.parametrize("end", ["status", "abort", "error", "torn off"])
def test_a_failure_undoes_what_the_view_had_committed(shop: Shop, end: str) -> None:
    shop.app.config["PROPAGATE_EXCEPTIONS"] = False

    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        if end == "abort":
            abort(403)
        if end == "error":
            raise ValueError
        if end == "torn off":
            raise KeyboardInterrupt
        return "no", 500

    client = serve(shop, view)
    for _ in range(2):
        if end == "torn off":
            with pytest.raises(KeyboardInterrupt):
                client.post("/orders", headers=KEY)
        else:
            assert client.post("/orders", headers=KEY).status_code == {"error": 500, "abort": 403, "status": 500}[end]
    assert shop.items() == []
    assert shop.proofs() == 0


def test_what_the_view_did_not_commit_is_not_committed_for_it(shop: Shop) -> None:
    def view() -> Any:
        shop.db.session.add(shop.Order(item="kept"))
        shop.db.session.commit()
        shop.db.session.add(shop.Order(item="lost"))
        shop.db.session.flush()
        return "ok"

    serve(shop, view).post("/orders", headers=KEY)
    assert shop.items() == ["kept"]


def test_rollbacks_savepoints_and_removed_sessions_stay_within_the_transaction(shop: Shop) -> None:
    def view() -> Any:
        session = shop.db.session
        session.add(shop.Order(item="a"))
        session.commit()
        session.add(shop.Order(item="lost"))
        session.flush()
        session.rollback()
        with session.begin_nested():
            session.add(shop.Order(item="b"))
        with session.begin_nested() as nested:
            session.add(shop.Order(item="lost, too"))
            session.flush()
            nested.rollback()
        session.commit()
        session.remove()
        session.add(shop.Order(item="c"))
        session.commit()
        abort(403) if fail else None
        return "ok"

    client = serve(shop, view)
    fail = True
    client.post("/orders", headers=KEY)
    assert shop.items() == []
    fail = False
    client.post("/orders", headers=KEY)
    assert shop.items() == ["a", "b", "c"]


def test_after_the_request_sessions_commit_by_themselves_again(shop: Shop) -> None:
    serve(shop, lambda: "ok").post("/orders", headers=KEY)
    with shop.app.app_context():
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
    assert shop.items() == ["book"]


def test_what_earlier_hooks_left_in_the_session_stays(shop: Shop) -> None:
    def see_user() -> None:
        shop.db.session.add(shop.Order(item="seen"))
        shop.db.session.flush()

    shop.app.before_request(see_user)
    serve(shop, lambda: ("no", 500)).post("/orders", headers=KEY)
    assert shop.items() == ["seen"]


@pytest.mark.parametrize("on_lapse", ["rerun", "refuse"])
def test_a_process_that_died_after_the_commit_is_answered_for(
    database_url: str, store: DyingStore, on_lapse: str
) -> None:
    shop = Shop(database_url, store, lease=60.0, on_lapse=on_lapse)
    runs = []

    def view() -> Any:
        runs.append(None)
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        return {"run": len(runs)}, 201

    client = serve(shop, view)
    store.dead = True
    assert client.post("/orders", headers=KEY).json == {"run": 1}
    store.die()
    again = client.post("/orders", headers=KEY)
    assert (again.status_code, again.json, again.headers["Idempotent-Replayed"]) == (201, {"run": 1}, "true")
    assert shop.items() == ["book"]
    assert len(runs) == 1
    assert client.post("/orders", headers=KEY).json == {"run": 1}


def test_of_two_attempts_that_both_run_one_commits_and_both_hear_its_answer(
    database_url: str, store: DyingStore
) -> None:
    shop = Shop(database_url, store, lease=60)
    runs: list[str] = []

    def view() -> Any:
        runs.append("run")
        shop.db.session.add(shop.Order(item=f"book {len(runs)}"))
        if len(runs) == 1:
            # This holder is thought dead, and another attempt runs and commits meanwhile.
            shop.db.session.rollback()
            store.let_leases_end()
            with ThreadPoolExecutor(1) as elsewhere:
                other = elsewhere.submit(lambda: shop.app.test_client().post("/orders", headers=KEY).json)
            assert other.result() == {"run": 2}
            shop.db.session.add(shop.Order(item="book 1"))
        shop.db.session.commit()
        return {"run": len(runs) if len(runs) > 1 else 1}, 201

    if database_url.startswith("sqlite"):
        pytest.skip("on SQLite the first attempt's transaction keeps every other from writing")
    first = serve(shop, view).post("/orders", headers=KEY)
    assert (first.status_code, first.json) == (201, {"run": 2})
    assert shop.items() == ["book 2"]


def test_under_serializable_the_heartbeat_does_not_abort_the_view(database_url: str) -> None:
    store = MemoryStore()
    shop = Shop(database_url, store, engine_options={"isolation_level": "SERIALIZABLE"}, lease=0.2)

    def view() -> Any:
        shop.db.session.query(shop.Order).count()
        renewed = wait_for_two_renewals(store)
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        return {"renewed": renewed}, 201

    answer = serve(shop, view).post("/orders", headers=KEY)
    assert answer.json == {"renewed": True}
    assert shop.items() == ["book"]


@pytest.mark.parametrize(("on_conflict", "status", "runs"), [("refuse", 503, 1), ("rerun", 201, 2)])
def test_a_conflict_is_503_or_a_rerun_by_policy(
    postgresql_url: str, store: DyingStore, on_conflict: str, status: int, runs: int
) -> None:
    shop = Shop(postgresql_url, store, engine_options={"isolation_level": "REPEATABLE READ"}, on_conflict=on_conflict)
    with shop.app.app_context():
        shop.db.session.add(shop.Order(id=1, item="0"))
        shop.db.session.commit()
    seen: list[Any] = []

    def view() -> Any:
        from flask import request

        seen.append(request.get_json())
        order = shop.db.session.get(shop.Order, 1)
        if len(seen) == 1:
            with shop.db.engine.begin() as other:
                other.execute(text("UPDATE orders SET item = '1'"))
        order.item += "2"
        shop.db.session.commit()
        return "ok", 201

    answer = serve(shop, view).post("/orders", json={"a": 1}, headers=KEY)
    assert answer.status_code == status
    if status == 503:
        assert answer.json["type"].endswith("#transaction-conflict")
        assert answer.headers["Retry-After"] == "1"
    assert seen == [{"a": 1}] * runs
    assert shop.items() == ["1" if status == 503 else "12"]


def test_an_error_of_the_database_that_is_the_views_own_stays_the_views_own(shop: Shop) -> None:
    def view() -> Any:
        shop.db.session.add_all([shop.Order(id=1, item="a"), shop.Order(id=1, item="b")])
        shop.db.session.commit()

    assert serve(shop, view).post("/orders", headers=KEY).status_code == 500
    assert shop.items() == []


def test_after_commit_listeners_hear_the_views_own_commits(shop: Shop) -> None:
    heard = []

    def view() -> Any:
        session = shop.db.session()
        event.listen(session, "after_commit", lambda _: heard.append("committed"))
        session.add(shop.Order(item="book"))
        session.commit()
        return "ok"

    serve(shop, view).post("/orders", headers=KEY)
    assert heard == ["committed"]


def test_a_decorated_view_can_be_atomic_alone(database_url: str, store: DyingStore) -> None:
    shop = Shop(database_url, store, atomic=False)

    @shop.idempotency.view(atomic=True)
    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        return ("ok", 201) if shop.idempotency.attempt else ("no", 402)

    client = serve(shop, view)
    assert [client.post("/orders", headers=KEY).status_code for _ in range(2)] == [201, 201]
    assert shop.items() == ["book"]
    assert shop.proofs() == 1


def test_a_hook_that_spoils_the_answer_does_not_undo_the_work(shop: Shop) -> None:
    runs = []

    def view() -> Any:
        runs.append(None)
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        return "ok", 201

    def spoil(response: Any) -> Any:
        raise ValueError

    client = serve(shop, view)
    shop.app.after_request_funcs.setdefault(None, []).append(spoil)
    assert client.post("/orders", headers=KEY).status_code == 500
    shop.app.after_request_funcs[None].remove(spoil)
    again = client.post("/orders", headers=KEY)
    assert (again.status_code, again.data) == (201, b"ok")
    assert len(runs) == 1
    assert shop.items() == ["book"]


def test_atomic_without_a_database_says_what_is_missing() -> None:
    from flask import Flask

    from flask_idempotency import Idempotency, Policy

    app = Flask(__name__)
    app.config["TESTING"] = True
    Idempotency(app, store=MemoryStore(), policy=Policy(atomic=True))
    app.add_url_rule("/orders", "orders", lambda: "ok", methods=["POST"])
    with pytest.raises(RuntimeError, match="Flask-SQLAlchemy"):
        app.test_client().post("/orders", headers=KEY)


def wait_for_two_renewals(store: MemoryStore) -> bool:
    """Whether the only claim was renewed twice, within a time that is plenty."""
    (record,) = store._records.values()
    seen = {record.lease_ends}
    for _ in range(1000):
        seen.add(record.lease_ends)
        if len(seen) >= 3:
            return True
        time.sleep(0.01)
    return False

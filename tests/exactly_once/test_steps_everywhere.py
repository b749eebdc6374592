"""Steps in every store, within atomic views and reruns, their results and their limits."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from freezegun import freeze_time
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import HTTPException

from flask_idempotency import Idempotency, Policy
from flask_idempotency.engine.records import Claim, StoredResponse
from flask_idempotency.engine.store import Store, StoreUnavailable
from flask_idempotency.stores import EncryptedStore, MemoryStore, SQLAlchemyStore, SQLiteStore, open_store
from tests.exactly_once.dying import DyingStore
from tests.exactly_once.shop import Shop
from tests.stores.redis import servers

KEY = {"Idempotency-Key": "order-1"}
LEASE = 0.4


@pytest.fixture(scope="module")
def valkey() -> Iterator[servers.Server]:
    server = servers.Server()
    with servers.running(server):
        yield server


@pytest.fixture(params=["memory", "sqlite", "encrypted", "valkey", "postgresql", "mariadb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with ExitStack() as ends:
        if request.param == "memory":
            store: Any = MemoryStore()
        elif request.param == "sqlite":
            store = SQLiteStore(tmp_path / "records.db")
        elif request.param == "encrypted":
            store = EncryptedStore(MemoryStore(), ["key-" * 10], id_key="ids-" * 10)
        elif request.param == "valkey":
            server = request.getfixturevalue("valkey")
            server.client().flushall()
            store = open_store(server.url)
        else:
            url = request.getfixturevalue(f"{request.param}_url")
            store = SQLAlchemyStore(url)
            engine = create_engine(url)
            store.table.drop(engine, checkfirst=True)
            engine.dispose()
        ends.callback(store.close)
        yield store


class TornOff(BaseException):
    """Stands for the end of a process: nothing after it runs, and nothing is released."""


class Desk:
    """An app whose one view is the test's."""

    def __init__(self, store: Store, **policy: Any) -> None:
        self.app = Flask(__name__)
        self.app.config["PROPAGATE_EXCEPTIONS"] = False
        self.idempotency = Idempotency(self.app, store=store, policy=Policy(**policy))
        self.done: list[Any] = []

    def serve(self, view: Any) -> Any:
        self.app.add_url_rule("/orders", "orders", view, methods=["POST"])
        return self.app.test_client()

    def charge(self, result: Any = None) -> Any:
        self.done.append(result)
        return result


def test_a_step_survives_the_release_of_its_key(store: Store) -> None:
    desk = Desk(store)
    statuses = [500, 402, 201]

    def view() -> Any:
        return {"charge": desk.idempotency.step("charge", desk.charge, 7)}, statuses.pop(0)

    client = desk.serve(view)
    assert [client.post("/orders", headers=KEY).status_code for _ in range(4)] == [500, 402, 201, 201]
    assert desk.done == [7]


@pytest.mark.parametrize(("on_lapse", "status", "runs"), [("rerun", 201, 2), ("refuse", 409, 1)])
def test_a_step_whose_process_died_in_it_is_rerun_or_refused(
    store: Store, on_lapse: Any, status: int, runs: int
) -> None:
    desk = Desk(store, lease=LEASE)
    keys: list[str] = []

    def charge() -> int:
        desk.done.append(None)
        keys.append(desk.idempotency.derive_key("charge"))
        if len(desk.done) == 1:
            raise TornOff
        return 7

    client = desk.serve(lambda: ({"charge": desk.idempotency.step("charge", charge, on_lapse=on_lapse)}, 201))
    with pytest.raises(TornOff):
        client.post("/orders", headers=KEY)
    for _ in range(100):
        heard = client.post("/orders", headers=KEY)
        if not heard.json.get("type", "").endswith(":request-in-progress"):
            break
        time.sleep(LEASE / 4)
    assert heard.status_code == status
    assert len(desk.done) == runs
    assert len(set(keys)) == 1  # the other side recognises the repeat


def test_a_step_within_an_atomic_view_stands_though_the_view_is_run_again_or_undone(database_url: str) -> None:
    shop = Shop(database_url, MemoryStore(), on_conflict="rerun")
    charged: list[None] = []
    runs: list[None] = []

    class Deadlock(Exception):
        sqlstate = "40001"

    def view() -> Any:
        runs.append(None)
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        charge = shop.idempotency.step("charge", lambda: charged.append(None) or len(charged))
        if len(runs) == 1:
            raise OperationalError("UPDATE", {}, Deadlock())
        return {"charge": charge}, 402 if len(runs) == 2 else 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    client = shop.app.test_client()
    heard = [client.post("/orders", headers=KEY) for _ in range(2)]
    assert [(each.status_code, each.json) for each in heard] == [(402, {"charge": 1}), (201, {"charge": 1})]
    assert (len(runs), len(charged)) == (3, 1)
    assert (shop.items(), shop.proofs()) == (["book"], 1)


@pytest.mark.parametrize(
    ("policy", "on_lapse", "status", "charges"),
    [("refuse", None, 409, 1), ("rerun", "refuse", 409, 1), ("refuse", "rerun", 201, 2), ("rerun", None, 201, 2)],
)
def test_a_step_whose_process_died_in_it_within_an_atomic_view_is_rerun_or_refused(
    database_url: str, policy: Any, on_lapse: Any, status: int, charges: int
) -> None:
    """The outcome of the view is known then, the step's is not: the card may have been charged."""
    store = DyingStore()
    shop = Shop(database_url, store, on_lapse=policy)
    charged: list[None] = []

    def charge() -> int:
        charged.append(None)
        if len(charged) == 1:
            raise TornOff
        return 7

    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        return {"charge": shop.idempotency.step("charge", charge, on_lapse=on_lapse)}, 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    client = shop.app.test_client()
    with pytest.raises(TornOff):
        client.post("/orders", headers=KEY)
    store.let_leases_end()
    heard = [client.post("/orders", headers=KEY) for _ in range(2)]
    assert [each.status_code for each in heard] == [status] * 2
    assert len(charged) == charges
    assert shop.items() == ([] if status == 409 else ["book"])


def test_where_a_step_is_refused_an_atomic_view_leaves_nothing_whatever_it_answers(database_url: str) -> None:
    shop = Shop(database_url, MemoryStore(), keep="all")

    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        try:
            shop.idempotency.step("charge", lambda: 1)
        except HTTPException:
            return "all is well", 200  # it is not
        raise ZeroDivisionError

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    client = shop.app.test_client()
    with pytest.MonkeyPatch.context() as patch:
        engine = shop.app.extensions["idempotency"].engine
        claim = engine.store.claim
        patch.setattr(
            engine.store, "claim", lambda record, *a, **k: claim(record, *a, **k) if not seen(record) else gone()
        )
        known: list[bytes] = []

        def seen(record: Any) -> bool:
            known.append(record.id)
            return len(set(known)) > 1  # the second identity is the step's

        def gone() -> Any:
            raise StoreUnavailable("gone")

        assert client.post("/orders", headers=KEY).status_code == 200
    assert (shop.items(), shop.proofs()) == ([], 0)


RESULTS: list[Any] = [
    None,
    True,
    0,
    2**70,
    -1.5,
    math.inf,
    "",
    "\ud800 \x00 \u2028 caf\xe9",
    [],
    {"a": [1, {"b": None}]},
    "x" * 2_000_000,
]


@pytest.mark.parametrize("result", RESULTS, ids=[repr(result)[:20] for result in RESULTS])
def test_each_json_value_comes_back_as_it_was(store: Store, result: Any) -> None:
    desk = Desk(store)
    seen: list[Any] = []

    def view() -> Any:
        seen.append(desk.idempotency.step("charge", desk.charge, result))
        return "no", 500

    client = desk.serve(view)
    for _ in range(2):
        client.post("/orders", headers={"Idempotency-Key": repr(result)[:20].encode("ascii", "replace").hex()})
    assert seen == [result, result]
    assert len(desk.done) == 1


def test_what_json_makes_of_a_result_is_what_the_first_attempt_sees_too() -> None:
    desk = Desk(MemoryStore())
    seen: list[Any] = []

    def view() -> Any:
        seen.append(desk.idempotency.step("charge", lambda: {1: (2, 3)}))
        return "no", 500

    client = desk.serve(view)
    for _ in range(2):
        client.post("/orders", headers=KEY)
    assert seen == [{"1": [2, 3]}] * 2


def nested(depth: int) -> Any:
    result: list[Any] = []
    for _ in range(depth):
        result = [result]
    return result


def circle() -> Any:
    result: list[Any] = []
    result.append(result)
    return result


class Odd(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    "make",
    [object, lambda: {1, 2}, lambda: b"bytes", lambda: {(1, 2): 3}, circle, lambda: nested(100_000), lambda: Odd(a=1)],
)
def test_a_result_that_cannot_be_written_was_done_and_never_is_again(make: Any) -> None:
    desk = Desk(MemoryStore())
    desk.app.config["PROPAGATE_EXCEPTIONS"] = True

    def work() -> Any:
        desk.done.append(None)
        return make()

    client = desk.serve(lambda: str(desk.idempotency.step("charge", work)))
    with pytest.raises(TypeError, match="must be JSON"):
        client.post("/orders", headers=KEY)
    for _ in range(2):
        refused = client.post("/orders", headers=KEY)
        assert refused.status_code == 409
        assert refused.json["type"].endswith(":response-not-kept")
    assert len(desk.done) == 1


def test_an_asynchronous_function_is_no_step_and_has_done_nothing() -> None:
    desk = Desk(MemoryStore())
    desk.app.config["PROPAGATE_EXCEPTIONS"] = True

    async def charge() -> int:
        desk.done.append(None)
        return 7

    functions = [charge, lambda: 7]
    client = desk.serve(lambda: str(desk.idempotency.step("charge", functions.pop(0))))
    with pytest.raises(TypeError, match="ordinary function"):
        client.post("/orders", headers=KEY)
    assert desk.done == []
    assert client.post("/orders", headers=KEY).data == b"7"  # it may be done yet


def test_steps_are_kept_for_the_views_retention_and_no_longer() -> None:
    desk = Desk(MemoryStore(), retention=60)
    client = desk.serve(lambda: (str(desk.idempotency.step("charge", desk.charge, 1)), 500))
    for second, runs in ((0, 1), (59, 1), (61, 2)):
        with freeze_time(f"2026-11-24 12:{second // 60:02}:{second % 60:02}"):
            client.post("/orders", headers=KEY)
        assert len(desk.done) == runs


def test_a_step_within_a_step_is_one_of_the_request() -> None:
    desk = Desk(MemoryStore())

    def outer() -> int:
        return int(desk.idempotency.step("inner", desk.charge, 1)) + 1

    def view() -> Any:
        return [desk.idempotency.step("outer", outer), desk.idempotency.step("inner", desk.charge, 2)], 500

    client = desk.serve(view)
    assert [client.post("/orders", headers=KEY).json for _ in range(2)] == [[2, 1]] * 2
    assert desk.done == [1]


def test_a_step_within_itself_is_refused_and_not_waited_for() -> None:
    desk = Desk(MemoryStore(), wait=60)

    def charge() -> Any:
        return desk.idempotency.step("charge", desk.charge)

    refused = desk.serve(lambda: str(desk.idempotency.step("charge", charge))).post("/orders", headers=KEY)
    assert refused.status_code == 409
    assert desk.done == []


class Forgetful(MemoryStore):
    """Loses its connection when a step is to be kept."""

    lost = False

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        if self.lost:
            raise StoreUnavailable("lost")
        return super().complete(claim, response, retention=retention)


def test_a_result_that_cannot_be_kept_now_is_kept_before_anyone_may_repeat_the_step() -> None:
    store = Forgetful()
    desk = Desk(store)

    def charge() -> int:
        store.lost = True
        return int(desk.charge(7))

    def view() -> Any:
        charged = desk.idempotency.step("charge", charge)
        store.lost = not request.get_json()["back"]
        return {"charge": charged}, 500

    client = desk.serve(view)
    assert client.post("/orders", json={"back": True}, headers=KEY).json == {"charge": 7}
    assert client.post("/orders", json={"back": True}, headers=KEY).json == {"charge": 7}
    assert desk.done == [7]

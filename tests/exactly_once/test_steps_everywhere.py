"""Steps in every store, within atomic views and reruns, their results and their limits."""

import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from freezegun import freeze_time
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import HTTPException

from flask_idempotency import Idempotency, Policy
from flask_idempotency.engine.records import Claim
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
            for table in (store.table, store.step_table):
                table.drop(engine, checkfirst=True)
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


def kind(answer: Any) -> str:
    return str(answer.json["type"]).rpartition("#")[2]


def ask_until_it_lapsed(client: Any) -> Any:
    """What is heard once the claim of whoever was torn off has lapsed."""
    for _ in range(100):
        heard = client.post("/orders", headers=KEY)
        if heard.status_code != 409 or kind(heard) != "request-in-progress":
            return heard
        time.sleep(LEASE / 4)
    raise AssertionError("it did not lapse")


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
    heard = ask_until_it_lapsed(client)
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
        return {"charge": charge}, 500 if len(runs) == 2 else 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    client = shop.app.test_client()
    heard = [client.post("/orders", headers=KEY) for _ in range(2)]
    assert [(each.status_code, each.json) for each in heard] == [(500, {"charge": 1}), (201, {"charge": 1})]
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
    store = Away()
    shop = Shop(database_url, store, keep="all")
    store.fences = True

    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        try:
            shop.idempotency.step("charge", lambda: 1)
        except HTTPException:
            return "all is well", 200  # it is not
        raise ZeroDivisionError

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    assert shop.app.test_client().post("/orders", headers=KEY).status_code == 200
    assert (shop.items(), shop.kinds()) == ([], [])


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
        assert (refused.status_code, kind(refused)) == (409, "response-not-kept")
    assert len(desk.done) == 1


async def charge_later(done: list[Any]) -> int:
    done.append(None)
    return 7


async def charge_by_and_by(done: list[Any]) -> AsyncIterator[int]:
    done.append(None)
    yield 7


class Charger:
    async def __call__(self, done: list[Any]) -> int:
        done.append(None)
        return 7


ASYNCHRONOUS: list[Any] = [
    charge_later,
    charge_by_and_by,
    Charger(),
    partial(charge_later),
    lambda done: charge_later(done),  # which is seen only when it was called
]


@pytest.mark.parametrize("function", ASYNCHRONOUS)
@pytest.mark.parametrize("on_lapse", ["rerun", "refuse"])
def test_an_asynchronous_function_is_no_step_and_has_done_nothing(function: Any, on_lapse: Any) -> None:
    desk = Desk(MemoryStore(), on_lapse=on_lapse)
    desk.app.config["PROPAGATE_EXCEPTIONS"] = True
    functions = [function, lambda done: 7]
    client = desk.serve(lambda: str(desk.idempotency.step("charge", functions.pop(0), desk.done)))
    with pytest.raises(TypeError, match="ordinary function"):
        client.post("/orders", headers=KEY)
    assert desk.done == []
    assert client.post("/orders", headers=KEY).data == b"7"  # it may be done yet


def test_steps_are_kept_for_the_views_retention_and_no_longer() -> None:
    desk = Desk(MemoryStore(), retention=60)
    client = desk.serve(lambda: (str(desk.idempotency.step("charge", desk.charge, 1)), 500))
    for second, runs in ((0, 1), (59, 1), (118, 1), (179, 2)):  # each attempt keeps the record for longer
        with freeze_time(f"2026-11-24 12:{second // 60:02}:{second % 60:02}"):
            client.post("/orders", headers=KEY)
        assert len(desk.done) == runs


def test_a_step_within_a_step_is_one_of_the_request() -> None:
    desk = Desk(MemoryStore())

    def outer() -> int:
        return int(desk.idempotency.step("inner", desk.charge, 1)) + 1

    def view() -> Any:
        return [desk.idempotency.step("outer", outer)], 500

    client = desk.serve(view)
    assert [client.post("/orders", headers=KEY).json for _ in range(2)] == [[2]] * 2
    assert desk.done == [1]


@pytest.mark.parametrize("within", [True, False])
def test_a_name_that_is_used_twice_in_one_run_is_an_error_that_says_so(within: bool) -> None:
    desk = Desk(MemoryStore())
    desk.app.config["PROPAGATE_EXCEPTIONS"] = True

    def charge() -> Any:
        return desk.idempotency.step("charge", desk.charge, 2) if within else desk.charge(1)

    def view() -> Any:
        desk.idempotency.step("charge", charge)
        return desk.idempotency.step("charge", desk.charge, 2)

    client = desk.serve(view)
    for _ in range(2):
        with pytest.raises(ValueError, match="'charge' was used in this run already"):
            client.post("/orders", headers=KEY)
    assert desk.done == ([] if within else [1])


@pytest.mark.parametrize(
    ("name", "on_lapse", "error"),
    [
        (None, None, TypeError),
        (b"charge", None, TypeError),
        ("\ud800", None, ValueError),
        ("n" * 513, None, ValueError),
        ("charge", "refused", ValueError),
    ],
)
def test_what_makes_no_sense_as_a_step_is_an_error_before_anything_is_done(
    store: Store, name: Any, on_lapse: Any, error: type[Exception]
) -> None:
    desk = Desk(store)
    desk.app.config["PROPAGATE_EXCEPTIONS"] = True
    client = desk.serve(lambda: desk.idempotency.step(name, desk.charge, 1, on_lapse=on_lapse))
    with pytest.raises(error):
        client.post("/orders", headers=KEY)
    assert desk.done == []


@pytest.mark.parametrize("on_lapse", ["rerun", "refuse"])
def test_a_step_that_raised_may_be_tried_again_in_the_same_run(store: Store, on_lapse: Any) -> None:
    desk = Desk(store, on_lapse=on_lapse)

    def charge() -> int:
        desk.done.append(None)
        if len(desk.done) == 1:
            raise ConnectionError
        return 7

    def view() -> Any:
        while True:
            with suppress(ConnectionError):
                return str(desk.idempotency.step("charge", charge)), 500

    client = desk.serve(view)
    heard = [client.post("/orders", headers=KEY) for _ in range(2)]
    assert [(each.status_code, each.text) for each in heard] == [(500, "7")] * 2
    assert len(desk.done) == 2


def test_what_raises_under_refusal_is_run_again_by_the_next_attempt(store: Store) -> None:
    """The mark that it began is taken away: it ended."""
    desk = Desk(store, on_lapse="refuse")
    errors: list[type[Exception]] = [ConnectionError, ValueError]

    def charge() -> int:
        if errors:
            raise errors.pop()
        return int(desk.charge(7))

    client = desk.serve(lambda: (str(desk.idempotency.step("charge", charge)), 201))
    assert [client.post("/orders", headers=KEY).status_code for _ in range(4)] == [500, 500, 201, 201]
    assert desk.done == [7]


def test_a_step_of_unknown_outcome_is_refused_until_a_person_says_what_became_of_it(store: Store) -> None:
    desk = Desk(store, lease=LEASE)

    def charge() -> int:
        desk.done.append(None)
        if len(desk.done) == 1:
            raise TornOff
        return 7

    client = desk.serve(lambda: (str(desk.idempotency.step("charge", charge, on_lapse="refuse")), 201))
    with pytest.raises(TornOff):
        client.post("/orders", headers=KEY)
    heard = ask_until_it_lapsed(client)
    assert [kind(each) for each in (heard, client.post("/orders", headers=KEY))] == ["outcome-unknown"] * 2
    record = heard.json["instance"].rpartition(":")[2]
    resolved = desk.app.test_cli_runner().invoke(args=["idempotency", "resolve", record, "--not-done"])
    assert resolved.exit_code == 0, resolved.output
    assert client.post("/orders", headers=KEY).status_code == 201
    assert len(desk.done) == 2


class Away(MemoryStore):
    """Cannot be reached by steps, or has given the claim to another, when a test says so."""

    away = False
    fences = False

    def load_steps(self, claim: Claim) -> Any:
        self._look()
        return super().load_steps(claim)

    def keep_step(self, claim: Claim, name: str, result: bytes | None, *, retention: float) -> bool:
        self._look()
        return False if self.fences else super().keep_step(claim, name, result, retention=retention)

    def drop_step(self, claim: Claim, name: str) -> bool:
        self._look()
        return super().drop_step(claim, name)

    def _look(self) -> None:
        if self.away:
            raise StoreUnavailable("away")


@pytest.mark.parametrize("status", [201, 500])
def test_a_result_that_cannot_be_kept_now_is_refused_and_kept_before_anyone_may_repeat_the_step(status: int) -> None:
    store = Away()
    desk = Desk(store)

    def charge() -> int:
        store.away = True
        return int(desk.charge(7))

    client = desk.serve(lambda: (str(desk.idempotency.step("charge", charge)), status))
    for _ in range(2):  # the first refused, the second before it may run
        refused = client.post("/orders", headers=KEY)
        assert refused.status_code in (409, 503)
        assert kind(refused) in ("store-unavailable", "request-in-progress")
    store.away = False
    heard = client.post("/orders", headers=KEY)
    assert (heard.status_code, heard.text) == (status, "7")
    assert desk.done == [7]


def test_a_view_that_swallows_the_refusal_of_a_step_has_not_answered() -> None:
    store = Away()
    desk = Desk(store)

    def charge() -> int:
        store.away = not desk.done
        return int(desk.charge(7))

    def view() -> Any:
        try:
            return str(desk.idempotency.step("charge", charge)), 201
        except HTTPException:
            store.away = False
            return "all is well", 201

    client = desk.serve(view)
    heard = [client.post("/orders", headers=KEY).text for _ in range(3)]
    assert heard == ["all is well", "7", "7"]
    assert desk.done == [7]


@pytest.mark.parametrize("on_lapse", ["rerun", "refuse"])
def test_a_step_that_raises_while_the_store_is_away_is_no_step_of_unknown_outcome(on_lapse: Any) -> None:
    store = Away()
    desk = Desk(store, on_lapse=on_lapse)

    def charge() -> int:
        if not store.away and not desk.done:
            store.away = True
            raise ConnectionError
        return int(desk.charge(7))

    def view() -> Any:
        with suppress(ConnectionError):
            return str(desk.idempotency.step("charge", charge)), 201
        store.away = False
        desk.done.append("failed")
        return "no", 500

    client = desk.serve(view)
    assert [client.post("/orders", headers=KEY).status_code for _ in range(2)] == [500, 201]
    assert desk.done == ["failed", 7]


def test_where_what_was_kept_cannot_be_read_nothing_is_done() -> None:
    store = Away()
    desk = Desk(store)
    client = desk.serve(lambda: (str(desk.idempotency.step("charge", desk.charge, 7)), 500))
    client.post("/orders", headers=KEY)
    store.away = True
    refused = client.post("/orders", headers=KEY)
    assert (refused.status_code, kind(refused)) == (503, "store-unavailable")
    store.away = False
    assert client.post("/orders", headers=KEY).text == "7"
    assert desk.done == [7]


@pytest.mark.parametrize(("on_lapse", "runs"), [("rerun", 1), ("refuse", 0)])
def test_a_step_of_a_fenced_attempt_ends_it(on_lapse: Any, runs: int) -> None:
    """Where doubt is refused, it is fenced before the step begins."""
    store = Away()
    store.fences = True
    desk = Desk(store)
    client = desk.serve(lambda: (str(desk.idempotency.step("charge", desk.charge, 7, on_lapse=on_lapse)), 201))
    refused = client.post("/orders", headers=KEY)
    assert (refused.status_code, kind(refused), refused.headers["Retry-After"]) == (409, "claim-lost", "1")
    assert len(desk.done) == runs


def test_the_first_attempt_does_not_ask_what_was_kept() -> None:
    store = Away()
    desk = Desk(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "load_steps", lambda claim: pytest.fail("it asked"))
        client = desk.serve(lambda: (str(desk.idempotency.step("charge", desk.charge, 7)), 201))
        assert client.post("/orders", headers=KEY).status_code == 201

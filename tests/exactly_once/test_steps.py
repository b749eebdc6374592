"""Steps: parts of a handler that a re-run does not repeat, and the keys that it hands on."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, abort, request
from flask.testing import FlaskClient
from freezegun import freeze_time

from flask_idempotency import Idempotency, Policy
from flask_idempotency.engine.store import Store
from flask_idempotency.stores import MemoryStore, SQLiteStore

KEY = {"Idempotency-Key": "order-1"}


def kind(answer: Any) -> str:
    return str(answer.json["type"]).rpartition("#")[2]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "idempotency.db")


@pytest.fixture
def clock() -> Iterator[Any]:
    with freeze_time("2026-11-24 12:00:00") as frozen:
        yield frozen


class Shop:
    """An app whose one view is the test's, and a log of what was really done."""

    def __init__(self, store: Store, **policy: Any) -> None:
        self.done: list[Any] = []
        self.idempotency = Idempotency(store=store, policy=Policy(**policy))
        self.app = Flask(__name__)
        self.idempotency.init_app(self.app)

    def serve(self, view: Callable[[], Any]) -> FlaskClient:
        self.app.add_url_rule("/orders", "orders", view, methods=["POST"])
        return self.app.test_client()

    def charge(self, amount: int, *, currency: str = "USD") -> dict[str, Any]:
        self.done.append((amount, currency))
        return {"charge": len(self.done), "items": (amount, currency)}


def test_a_rerun_after_a_failure_gets_the_kept_result_of_the_step(store: Store) -> None:
    shop = Shop(store)
    results = []

    def view() -> Any:
        results.append(shop.idempotency.step("charge", shop.charge, 100, currency="EUR"))
        return ("no", 503) if len(results) < 3 else ("yes", 201)

    client = shop.serve(view)
    assert [client.post("/orders", headers=KEY).status_code for _ in range(4)] == [503, 503, 201, 201]
    assert shop.done == [(100, "EUR")]
    # The first attempt sees what the later ones see: what JSON makes of it.
    assert results == [{"charge": 1, "items": [100, "EUR"]}] * 3


def test_steps_are_told_apart_by_name_key_and_principal(store: Store) -> None:
    shop = Shop(store)

    def view() -> Any:
        for name in ("first", "second"):
            shop.idempotency.step(name, shop.charge, 1)
        abort(503)

    client = shop.serve(view)
    for caller in ("Bearer a", "Bearer b"):
        for key in ("k1", "k2"):
            for _ in range(2):
                client.post("/orders", headers={"Idempotency-Key": key, "Authorization": caller})
    assert len(shop.done) == 2 * 2 * 2


def test_what_a_step_raises_is_not_kept(store: Store) -> None:
    shop = Shop(store)

    def fail_once() -> int:
        shop.done.append(None)
        if len(shop.done) == 1:
            raise ConnectionError
        return 1

    client = shop.serve(lambda: {"n": shop.idempotency.step("charge", fail_once)})
    assert [client.post("/orders", headers=KEY).status_code for _ in range(3)] == [500, 200, 200]
    assert len(shop.done) == 2


class TornOff(BaseException):
    """Stands for the end of a process within the step: nothing after it runs, and nothing is released."""


@pytest.mark.parametrize(
    ("policy", "on_lapse", "status", "runs"),
    [
        ("rerun", None, 200, 2),
        ("rerun", "refuse", 409, 1),
        ("refuse", "rerun", 409, 1),  # the request itself is refused before its steps are asked
    ],
)
def test_where_the_process_died_in_the_step_on_lapse_decides(
    store: Store, clock: Any, policy: Any, on_lapse: Any, status: int, runs: int
) -> None:
    shop = Shop(store, on_lapse=policy, lease=30)

    def die_once() -> int:
        shop.done.append(None)
        if len(shop.done) == 1:
            raise TornOff
        return 1

    client = shop.serve(lambda: {"n": shop.idempotency.step("charge", die_once, on_lapse=on_lapse)})
    with pytest.raises(TornOff):
        client.post("/orders", headers=KEY)
    assert client.post("/orders", headers=KEY).status_code == 409  # still in progress, as far as anyone knows
    clock.tick(31)
    answers = [client.post("/orders", headers=KEY) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [status] * 2
    if status == 409:
        assert [kind(answer) for answer in answers] == ["outcome-unknown"] * 2
    assert len(shop.done) == runs


def test_a_step_done_for_one_payload_does_not_answer_for_another(store: Store) -> None:
    shop = Shop(store)

    def view() -> Any:
        shop.idempotency.step("charge", shop.charge, request.get_json()["amount"])
        abort(503)

    client = shop.serve(view)
    client.post("/orders", json={"amount": 1}, headers=KEY)
    changed = client.post("/orders", json={"amount": 2}, headers=KEY)
    assert changed.status_code == 422
    assert kind(changed) == "idempotency-key-reused"
    assert shop.done == [(1, "USD")]


def test_the_refusal_of_a_step_is_never_kept_as_the_answer(store: Store) -> None:
    shop = Shop(store, keep="all")

    def view() -> Any:
        shop.idempotency.step("charge", shop.charge, request.get_json()["amount"])
        raise TornOff

    client = shop.serve(view)
    with pytest.raises(TornOff), freeze_time("2026-11-24 12:00:00"):
        client.post("/orders", json={"amount": 1}, headers=KEY)
    with freeze_time("2026-11-24 12:01:00"), pytest.raises(TornOff):
        client.post("/orders", json={"amount": 1}, headers=KEY)
    assert shop.done == [(1, "USD")]


def test_an_error_handler_for_everything_does_not_change_the_refusal_of_a_step(store: Store) -> None:
    shop = Shop(store)
    shop.app.register_error_handler(Exception, lambda error: ("handled", 500))

    def view() -> Any:
        shop.idempotency.step("charge", shop.charge, request.get_json()["amount"])
        raise ValueError

    client = shop.serve(view)
    assert client.post("/orders", json={"amount": 1}, headers=KEY).status_code == 500
    assert client.post("/orders", json={"amount": 2}, headers=KEY).status_code == 422


def test_a_result_that_is_not_json_is_an_error_and_never_done_again(store: Store) -> None:
    shop = Shop(store)
    shop.app.config["TESTING"] = True

    def view() -> Any:
        shop.idempotency.step("charge", lambda: shop.done.append(None) or object())
        return "unreachable"

    client = shop.serve(view)
    with pytest.raises(TypeError, match="must be JSON"):
        client.post("/orders", headers=KEY)
    refused = client.post("/orders", headers=KEY)
    assert refused.status_code == 409
    assert kind(refused) == "response-not-kept"
    assert len(shop.done) == 1


def test_without_a_key_in_force_a_step_is_a_call_and_a_derived_key_is_new(store: Store) -> None:
    shop = Shop(store, required=False)
    keys = []

    def view() -> Any:
        keys.append(shop.idempotency.derive_key("charge"))
        return shop.idempotency.step("charge", shop.charge, 1)

    client = shop.serve(view)
    assert [client.post("/orders").status_code for _ in range(2)] == [200, 200]
    assert len(shop.done) == 2
    assert len(set(keys)) == 2


def test_a_derived_key_is_the_same_in_each_attempt_and_differs_for_all_else(store: Store) -> None:
    shop = Shop(store)
    keys: list[tuple[str, ...]] = []

    def view() -> Any:
        keys.append(tuple(shop.idempotency.derive_key(name) for name in ("charge", "mail")))
        return "no", 503

    client = shop.serve(view)
    for caller in ("Bearer a", "Bearer b"):
        for key in ("k1", "k2"):
            for _ in range(2):
                client.post("/orders", headers={"Idempotency-Key": key, "Authorization": caller})
    firsts, seconds = keys[::2], keys[1::2]
    assert firsts == seconds
    every = [key for pair in firsts for key in pair]
    assert len(set(every)) == len(every) == 8
    assert all(str(uuid.UUID(key)) == key and uuid.UUID(key).version == 8 for key in every)

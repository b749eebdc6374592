"""The example shop: each pattern of the field, as its clients see it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from freezegun import freeze_time

from example_app import create_app


@pytest.fixture
def shop(tmp_path: Path) -> Flask:
    return create_app(
        {"SHOP_DATABASE": tmp_path / "shop.db", "IDEMPOTENCY_STORE_URL": f"sqlite:///{tmp_path / 'idempotency.db'}"}
    )


@pytest.fixture
def client(shop: Flask) -> FlaskClient:
    return shop.test_client()


def key(value: str) -> dict[str, str]:
    return {"Idempotency-Key": value}


PAYMENT = {"amount": 100, "currency": "USD"}
ORDER = {"item": "book", "quantity": 2}
TRANSFER = {"from": "alice", "to": "bob", "amount": 300}


def test_a_payment_is_made_once_however_often_it_is_asked_for(client: FlaskClient) -> None:
    first, *repeats = [client.post("/api/payments", json=PAYMENT, headers=key("p1")) for _ in range(3)]
    assert first.status_code == 201
    assert first.json is not None
    assert client.get(first.headers["Location"]).json == first.json
    assert {(r.status_code, r.data, r.headers["Idempotent-Replayed"]) for r in repeats} == {(201, first.data, "true")}
    assert client.get("/api/payments").json == [first.json]


def test_a_day_later_the_key_is_new_and_so_is_the_payment(client: FlaskClient) -> None:
    with freeze_time("2026-11-24 12:00:00") as clock:
        first = client.post("/api/payments", json=PAYMENT, headers=key("p1"))
        clock.tick(24 * 60 * 60 - 1)
        repeat = client.post("/api/payments", json=PAYMENT, headers=key("p1"))
        clock.tick(1)
        another = client.post("/api/payments", json=PAYMENT, headers=key("p1"))
    assert (repeat.data, another.status_code) == (first.data, 201)
    assert client.get("/api/payments").json == [first.json, another.json]
    assert first.json != another.json


def test_two_keys_are_two_payments(client: FlaskClient) -> None:
    for name in ("p1", "p2"):
        client.post("/api/payments", json=PAYMENT, headers=key(name))
    assert len(client.get("/api/payments").json or ()) == 2


@pytest.mark.parametrize(
    "wrong",
    [{}, [], {"amount": 0, "currency": "USD"}, {"amount": 1.5, "currency": "USD"}, {"amount": True, "currency": "USD"},
     {"amount": 2**63, "currency": "USD"}, {"amount": 1, "currency": ""}, {"amount": 1, "currency": "dollars"}],
)  # fmt: skip
def test_a_payment_that_makes_no_sense_is_refused_and_its_key_stays_free(client: FlaskClient, wrong: object) -> None:
    refused = client.post("/api/payments", json=wrong, headers=key("p1"))
    assert (refused.status_code, refused.content_type) == (400, "application/problem+json")
    assert client.post("/api/payments", json=PAYMENT, headers=key("p1")).status_code == 201


def test_an_order_stays_one_row_even_when_its_kept_answer_is_gone(client: FlaskClient) -> None:
    with freeze_time("2026-11-24 12:00:00") as clock:
        first = client.post("/api/orders", json=ORDER, headers=key("o1"))
        clock.tick(25 * 60 * 60)
        again = client.post("/api/orders", json=ORDER, headers=key("o1"))
        other = client.post("/api/orders", json=ORDER | {"quantity": 3}, headers=key("o1"))
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 422)
    assert "Idempotent-Replayed" not in again.headers
    assert first.json is not None
    assert again.json == first.json
    assert client.get("/api/orders").json == [first.json] == [client.get(f"/api/orders/{first.json['id']}").json]


@pytest.mark.parametrize(("path", "body"), [("/api/orders", ORDER), ("/api/transfers", TRANSFER)])
def test_two_callers_who_chose_the_same_key_get_nothing_of_each_other(
    client: FlaskClient, path: str, body: dict[str, object]
) -> None:
    ada, bea = ({"Authorization": f"Bearer {name}", **key("1")} for name in ("ada", "bea"))
    first, other = (client.post(path, json=body, headers=who) for who in (ada, bea))
    assert (first.status_code, other.status_code) == (201, 201)
    assert client.get(path).json == [first.json, other.json]


def test_money_moves_once_even_when_its_kept_answer_is_gone(client: FlaskClient) -> None:
    with freeze_time("2026-11-24 12:00:00") as clock:
        first = client.post("/api/transfers", json=TRANSFER, headers=key("t1"))
        repeat = client.post("/api/transfers", json=TRANSFER, headers=key("t1"))
        clock.tick(25 * 60 * 60)
        again = client.post("/api/transfers", json=TRANSFER, headers=key("t1"))
        other = client.post("/api/transfers", json=TRANSFER | {"amount": 1}, headers=key("t1"))
    assert [r.status_code for r in (first, repeat, again, other)] == [201, 201, 201, 422]
    assert first.json == repeat.json == again.json
    assert client.get("/api/accounts").json == [{"balance": 700, "id": "alice"}, {"balance": 1300, "id": "bob"}]


def test_of_16_clients_with_one_key_none_moves_money_twice(shop: Flask) -> None:
    def ask(_: int) -> int:
        return shop.test_client().post("/api/transfers", json=TRANSFER, headers=key("t1")).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = set(pool.map(ask, range(16)))
    assert 201 in statuses
    assert statuses <= {201, 409}
    assert shop.test_client().get("/api/accounts").json == [
        {"balance": 700, "id": "alice"},
        {"balance": 1300, "id": "bob"},
    ]


@pytest.mark.parametrize(
    ("wrong", "status"),
    [(TRANSFER | {"amount": 1001}, 409), (TRANSFER | {"to": "alice"}, 400), (TRANSFER | {"to": "nobody"}, 404)],
)
def test_a_transfer_that_cannot_be_leaves_every_balance_alone(
    client: FlaskClient, wrong: dict[str, object], status: int
) -> None:
    assert client.post("/api/transfers", json=wrong, headers=key("t1")).status_code == status
    assert client.get("/api/accounts").json == [{"balance": 1000, "id": "alice"}, {"balance": 1000, "id": "bob"}]
    assert client.get("/api/transfers").json == []


def test_putting_the_same_user_again_gives_the_same_result(client: FlaskClient) -> None:
    ada = {"name": "Ada", "email": "ada@example.com"}
    first, again = (client.put("/api/users/7", json=ada) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json == again.json == client.get("/api/users/7").json == {"id": "7", **ada}


def test_putting_other_values_replaces_those_that_were_there(client: FlaskClient) -> None:
    for name in ("Ada", "Bea"):
        client.put("/api/users/7", json={"name": name, "email": "7@example.com"})
    assert client.get("/api/users/7").json == {"id": "7", "name": "Bea", "email": "7@example.com"}
    assert client.put("/api/users/7", json={"name": "\ud800", "email": "7@example.com"}).status_code == 400


def test_deleting_a_user_answers_204_the_first_time_and_every_time_after(client: FlaskClient) -> None:
    client.put("/api/users/7", json={"name": "Ada", "email": "ada@example.com"})
    assert [client.delete("/api/users/7").status_code for _ in range(3)] == [204, 204, 204]
    assert client.get("/api/users/7").status_code == 404


@pytest.mark.parametrize("path", ["/api/payments", "/api/orders", "/api/transfers"])
def test_what_creates_something_needs_a_key_and_says_where_its_rules_are(client: FlaskClient, path: str) -> None:
    refused = client.post(path, json={})
    assert (refused.status_code, refused.headers["Link"]) == (400, '</.well-known/idempotency>; rel="describedby"')
    assert refused.json is not None
    assert refused.json["type"] == "/.well-known/idempotency#idempotency-key-missing"
    assert client.get("/.well-known/idempotency").status_code == 200
    assert client.get(path).json == []


def test_a_shop_that_nobody_asks_writes_nothing(shop: Flask, tmp_path: Path) -> None:
    assert list(tmp_path.iterdir()) == []
    assert shop.test_client().get("/").status_code == 200
    assert (tmp_path / "shop.db").exists()

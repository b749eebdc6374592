"""Many clients at once, and two servers on one database: each key is worked on once, and no lock fails anybody."""

import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import httpx
import pytest
from flask import Flask

from example_app import create_shop

from .serving import PATIENCE, get, post_until_done, serving

T = TypeVar("T")
R = TypeVar("R")

CLIENTS = 16


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[str]]:
    with ExitStack() as stack:
        yield [stack.enter_context(serving(tmp_path)) for _ in range(2)]


def all_at_once(ask: Callable[[T], R], what: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(ask, what, timeout=PATIENCE))


def test_many_clients_at_two_servers_make_one_order_for_each_key(servers: list[str]) -> None:
    def order(number: int) -> tuple[str, int, str]:
        key = f"order-{number // 8}"  # eight at the same time, at both servers in turn
        body = {"item": key, "quantity": 1}
        answer = post_until_done(f"{servers[number % 2]}/api/orders", key, body)
        return key, answer.status_code, answer.text

    heard = set(all_at_once(order, range(25 * 8)))
    assert {status for _, status, _ in heard} == {201}
    assert len(heard) == 25, "for each key, all hear the same answer"
    for server in servers:
        assert sorted(order["item"] for order in get(f"{server}/api/orders")) == sorted(key for key, _, _ in heard)


def test_where_servers_know_nothing_of_each_others_records_the_database_still_decides(tmp_path: Path) -> None:
    with serving(tmp_path, records="one.db") as one, serving(tmp_path, records="other.db") as other:

        def ask(asked: tuple[str, str, str]) -> tuple[str, int, str]:
            resource, key, server = asked
            body = {"orders": {"item": key, "quantity": 1}, "transfers": {"from": "alice", "to": "bob", "amount": 1}}
            answer = post_until_done(f"{server}/api/{resource}", key, body[resource])
            return key, answer.status_code, answer.text

        orders = all_at_once(ask, [("orders", f"o{n}", server) for n in range(25) for server in (one, other)])
        assert sorted(status for _, status, _ in orders) == [200] * 25 + [201] * 25
        assert len({(key, text) for key, _, text in orders}) == 25
        transfers = all_at_once(ask, [("transfers", f"t{n}", server) for n in range(25) for server in (one, other)])
        assert {status for _, status, _ in transfers} == {201}
        assert len({(key, text) for key, _, text in transfers}) == 25
        assert get(f"{one}/api/accounts") == [{"id": "alice", "balance": 975}, {"id": "bob", "balance": 1025}]


def test_money_is_neither_made_nor_lost_between_two_servers_and_each_key_moves_it_once(servers: list[str]) -> None:
    chance = random.Random(7)
    transfers: dict[str, dict[str, Any]] = {}
    for number in range(60):
        source, target = chance.sample(["alice", "bob"], 2)
        transfers[f"transfer-{number}"] = {"from": source, "to": target, "amount": chance.randint(1, 20)}

    def move(asked: tuple[str, str]) -> tuple[str, int, str]:
        key, server = asked
        answer = post_until_done(f"{server}/api/transfers", key, transfers[key])
        return key, answer.status_code, answer.text

    heard = set(all_at_once(move, [(key, server) for key in transfers for server in servers * 2]))
    assert {status for _, status, _ in heard} == {201}
    assert len(heard) == len(transfers), "for each key, all hear the same answer"
    came_to_bob = sum(t["amount"] if t["to"] == "bob" else -t["amount"] for t in transfers.values())
    for server in servers:
        assert len(get(f"{server}/api/transfers")) == len(transfers)
        balances = {account["id"]: account["balance"] for account in get(f"{server}/api/accounts")}
        assert balances == {"alice": 1000 - came_to_bob, "bob": 1000 + came_to_bob}


def test_who_puts_the_same_user_at_the_same_time_makes_one_and_nobody_fails(servers: list[str]) -> None:
    def put(number: int) -> int:
        ada = {"name": "Ada", "email": "ada@example.com"}
        return httpx.put(f"{servers[number % 2]}/api/users/{number // 8}", json=ada, timeout=PATIENCE).status_code

    statuses = all_at_once(put, range(12 * 8))
    assert sorted(statuses) == [200] * (12 * 7) + [201] * 12


def test_shops_that_open_in_the_same_moment_make_their_tables_once(tmp_path: Path) -> None:
    for attempt in range(12):
        start = Barrier(8)
        shops = [
            create_shop({"SHOP_DATABASE": tmp_path / f"{attempt}/shop.db", "IDEMPOTENCY_STORE_URL": "memory://"})
            for _ in range(8)
        ]

        def ask_first(shop: Flask, start: Barrier = start) -> object:
            start.wait(PATIENCE)
            return shop.test_client().get("/api/accounts").json

        accounts = [{"balance": 1000, "id": "alice"}, {"balance": 1000, "id": "bob"}]
        assert all_at_once(ask_first, shops) == [accounts] * 8


def test_a_shop_that_opens_while_another_makes_its_tables_waits_for_it(tmp_path: Path) -> None:
    shop = create_shop({"SHOP_DATABASE": tmp_path / "shop.db", "IDEMPOTENCY_STORE_URL": "memory://"})
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as other, ThreadPoolExecutor() as pool:
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE halfway (id)")
        asked = pool.submit(shop.test_client().get, "/api/accounts")
        assert not wait([asked], timeout=0.5).done
        other.execute("COMMIT")
        assert asked.result(PATIENCE).status_code == 200

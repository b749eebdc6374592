"""The shop's server is killed at the worst moments, and its clients ask again."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from .serving import get, post, post_until_done, serving

PAYMENT = {"amount": 100, "currency": "USD"}
ORDER = {"item": "book", "quantity": 2}
TRANSFER = {"from": "alice", "to": "bob", "amount": 300}


def die(folder: Path, boundary: str, resource: str, body: dict[str, Any]) -> None:
    """Ask a server that dies at this boundary."""
    with serving(folder, dies=boundary) as url, pytest.raises(httpx.TransportError):
        post(f"{url}/api/{resource}", "key-1", body)


def count(folder: Path, table: str) -> int:
    with closing(sqlite3.connect(folder / "shop.db")) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.mark.parametrize(
    ("boundary", "stands"), [("before the commit", 0), ("after the commit", 1), ("before the first byte", 1)]
)
def test_a_killed_transfer_leaves_money_and_answer_or_neither_and_every_retry_hears_one_answer(
    tmp_path: Path, boundary: str, stands: int
) -> None:
    die(tmp_path, boundary, "transfers", TRANSFER)
    assert (count(tmp_path, "transfers"), count(tmp_path, "idempotency_proofs")) == (stands, stands)
    with serving(tmp_path) as url:
        assert get(f"{url}/api/accounts")[0] == {"id": "alice", "balance": 700 if stands else 1000}
        first, again = (post_until_done(f"{url}/api/transfers", "key-1", TRANSFER) for _ in range(2))
        assert (first.status_code, first.content) == (again.status_code, again.content) == (201, first.content)
        # The answer that committed with the money is repeated; where there was none, the work was done anew.
        assert ("Idempotent-Replayed" in first.headers) == bool(stands)
        assert get(f"{url}/api/transfers") == [first.json()]
        assert get(f"{url}/api/accounts") == [{"id": "alice", "balance": 700}, {"id": "bob", "balance": 1300}]


def test_a_transfer_that_died_is_never_made_for_another_amount(tmp_path: Path) -> None:
    die(tmp_path, "after the commit", "transfers", TRANSFER)
    with serving(tmp_path) as url:
        assert post_until_done(f"{url}/api/transfers", "key-1", TRANSFER | {"amount": 1}).status_code == 422
        assert post_until_done(f"{url}/api/transfers", "key-1", TRANSFER).json()["amount"] == 300


@pytest.mark.parametrize(("boundary", "rows"), [("after the step", 0), ("after the view's commit", 1)])
def test_a_killed_payment_is_finished_by_the_retry_and_charges_the_card_once(
    tmp_path: Path, boundary: str, rows: int
) -> None:
    die(tmp_path, boundary, "payments", PAYMENT)
    assert count(tmp_path, "payments") == rows
    with serving(tmp_path) as url:
        paid = post_until_done(f"{url}/api/payments", "key-1", PAYMENT)
        assert paid.status_code == 201
        assert get(f"{url}/api/payments") == [paid.json()]
    assert (tmp_path / "ledger").read_text().split() == [paid.json()["id"]]


def test_a_killed_order_is_one_row_and_that_row_is_the_answer(tmp_path: Path) -> None:
    die(tmp_path, "after the view's commit", "orders", ORDER)
    assert count(tmp_path, "orders") == 1
    with serving(tmp_path) as url:
        ordered = post_until_done(f"{url}/api/orders", "key-1", ORDER)
        assert ordered.status_code == 200
        assert get(f"{url}/api/orders") == [ordered.json()]

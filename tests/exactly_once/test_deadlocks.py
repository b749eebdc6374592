"""Deadlocks on MariaDB, which undoes the whole transaction at one, with every savepoint in it."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tests.exactly_once.dying import DyingStore
from tests.exactly_once.shop import Shop

KEY = {"Idempotency-Key": "order-1"}


class Rival:
    """Another's transaction that holds one row, wants another, and outweighs whoever meets it."""

    def __init__(self, shop: Shop) -> None:
        with shop.app.app_context():
            shop.db.session.add_all([shop.Order(id=1, item="1"), shop.Order(id=2, item="2")])
            shop.db.session.commit()
            self._connection = shop.db.engine.connect()
        self._connection.execute(text("UPDATE orders SET item = '2 theirs' WHERE id = 2"))
        for _ in range(30):  # the lighter of the two is undone
            self._connection.execute(text("INSERT INTO orders (item) VALUES ('weight')"))
        self._pool = ThreadPoolExecutor(1)
        self._done: Future[None] | None = None

    def want_the_first(self) -> None:
        self._done = self._pool.submit(self._take_the_first)

    def _take_the_first(self) -> None:
        with self._connection:
            self._connection.execute(text("UPDATE orders SET item = '1 theirs' WHERE id = 1"))
            self._connection.execute(text("DELETE FROM orders WHERE item = 'weight'"))
            self._connection.commit()

    def join(self) -> None:
        assert self._done is not None
        self._done.result(timeout=60)
        self._pool.shutdown()


def propagate(session: Any, update: Any) -> None:
    update()


def propagate_out_of_a_savepoint(session: Any, update: Any) -> None:
    with session.begin_nested():
        update()


def go_on_after_a_savepoint(session: Any, update: Any) -> None:
    with suppress(OperationalError), session.begin_nested():
        update()


def go_on_after_rolling_back(session: Any, update: Any) -> None:
    try:
        update()
    except OperationalError:
        with suppress(OperationalError):
            session.rollback()


WAYS = [propagate, propagate_out_of_a_savepoint, go_on_after_a_savepoint, go_on_after_rolling_back]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("on_conflict", "status"), [("refuse", 503), ("rerun", 201)])
def test_a_deadlock_is_a_conflict_and_never_an_answer_without_its_rows_whatever_the_view_makes_of_it(
    mariadb_url: str, on_conflict: str, status: int, way: Any
) -> None:
    shop = Shop(mariadb_url, DyingStore(), on_conflict=on_conflict)
    rival = Rival(shop)
    runs: list[None] = []

    def view() -> Any:
        session = shop.db.session
        runs.append(None)
        session.add(shop.Order(item="book"))
        session.commit()
        if len(runs) == 1:
            session.execute(text("UPDATE orders SET item = '1 ours' WHERE id = 1"))
            session.commit()
            rival.want_the_first()
            way(session, lambda: session.execute(text("UPDATE orders SET item = '2 ours' WHERE id = 2")))
        return "answer", 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    heard = shop.app.test_client().post("/orders", headers=KEY)
    rival.join()
    assert heard.status_code == status
    if status == 503:
        assert heard.json["type"].endswith("#transaction-conflict")
        assert (shop.items(), shop.proofs()) == (["1 theirs", "2 theirs"], 0)
        assert shop.app.test_client().post("/orders", headers=KEY).status_code == 201
    assert (shop.items(), shop.proofs()) == (["1 theirs", "2 theirs", "book"], 1)

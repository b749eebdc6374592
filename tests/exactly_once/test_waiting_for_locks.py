"""What another has locked is waited for, within bounds; a wait that ends in vain is a conflict."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from flask_idempotency.exactly_once import lock_wait
from tests.databases import mariadb
from tests.exactly_once.dying import DyingStore
from tests.exactly_once.shop import Shop

KEY = {"Idempotency-Key": "order-1"}


@pytest.fixture(scope="module")
def undoing_url() -> Iterator[str]:
    """A MariaDB that undoes the whole transaction at a lock wait time-out."""
    with mariadb("--innodb-rollback-on-timeout=ON", "--innodb-lock-wait-timeout=1") as url:
        yield url


class Locked:
    """A shop with one order, which another's transaction has changed and does not commit."""

    def __init__(self, url: str, **options: Any) -> None:
        self.shop = Shop(url, DyingStore(), **options)
        with self.shop.app.app_context():
            self.shop.db.session.add(self.shop.Order(id=1, item="theirs"))
            self.shop.db.session.commit()
            self.other = self.shop.db.engine.connect()
        self.other.execute(text("UPDATE orders SET item = 'held' WHERE id = 1"))

    def want_it(self) -> None:
        self.shop.db.session.execute(text("UPDATE orders SET item = 'ours' WHERE id = 1"))

    def serve(self, view: Any) -> Any:
        self.shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
        return self.shop.app.test_client()


def test_on_postgresql_where_nobody_bounds_it_we_do(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_wait, "PATIENCE", 0.2)
    locked = Locked(postgresql_url)

    def view() -> Any:
        locked.want_it()
        locked.shop.db.session.commit()
        return "answer", 201

    client = locked.serve(view)
    refused = client.post("/orders", headers=KEY)
    assert (refused.status_code, refused.json["type"]) == (503, "/.well-known/idempotency#transaction-conflict")
    locked.other.rollback()
    assert client.post("/orders", headers=KEY).status_code == 201
    assert locked.shop.items() == ["ours"]


def test_on_postgresql_a_bound_of_the_applications_own_stays(postgresql_url: str) -> None:
    options = {"connect_args": {"options": "-c lock_timeout=1234"}}
    shop = Shop(postgresql_url, DyingStore(), engine_options=options)

    def view() -> Any:
        return shop.db.session.execute(text("SHOW lock_timeout")).scalar_one()

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    assert shop.app.test_client().post("/orders", headers=KEY).text == "1234ms"


@pytest.mark.parametrize("savepoint", [True, False])
def test_where_the_server_undoes_everything_at_a_time_out_no_answer_stands_without_its_rows(
    undoing_url: str, savepoint: bool
) -> None:
    locked = Locked(undoing_url)

    def view() -> Any:
        session = locked.shop.db.session
        session.add(locked.shop.Order(item="book"))
        session.commit()
        with suppress(OperationalError):
            if savepoint:
                with session.begin_nested():
                    locked.want_it()
            else:
                locked.want_it()
        with suppress(OperationalError):
            session.rollback()
        return "answer", 201

    client = locked.serve(view)
    refused = client.post("/orders", headers=KEY)
    assert (refused.status_code, refused.json["type"]) == (503, "/.well-known/idempotency#transaction-conflict")
    assert locked.shop.items() == ["theirs"]
    locked.other.rollback()
    assert client.post("/orders", headers=KEY).status_code == 201
    assert locked.shop.items() == ["book", "theirs"]  # what it wanted, it has not committed


def test_where_the_server_undoes_the_statement_alone_a_view_may_go_on(mariadb_url: str) -> None:
    options = {"connect_args": {"init_command": "SET SESSION innodb_lock_wait_timeout = 1"}}
    locked = Locked(mariadb_url, engine_options=options)

    def view() -> Any:
        session = locked.shop.db.session
        session.add(locked.shop.Order(item="book"))
        session.commit()
        with suppress(OperationalError), session.begin_nested():
            locked.want_it()
        return "answer", 201

    assert locked.serve(view).post("/orders", headers=KEY).status_code == 201
    locked.other.rollback()
    assert locked.shop.items() == ["book", "theirs"]

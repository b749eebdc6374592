"""What is not of the transaction of an atomic view, and what becomes of it where that is undone."""

from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from flask_idempotency import Idempotency, Policy
from flask_idempotency.stores import MemoryStore
from tests.exactly_once.dying import DyingStore
from tests.exactly_once.shop import Shop
from tests.exactly_once.test_sessions import Base, Line, lines, renew

KEY = {"Idempotency-Key": "order-1"}


def test_a_call_to_others_is_not_taken_back(database_url: str) -> None:
    """An e-mail, a charge: for those there are steps and derived keys."""
    shop = Shop(database_url, DyingStore())
    sent: list[str] = []

    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        sent.append("Your book is on its way.")
        return "no", 500

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    for _ in range(2):
        shop.app.test_client().post("/orders", headers=KEY)
    assert (sent, shop.items()) == (["Your book is on its way."] * 2, [])


def test_after_commit_listeners_are_not_told_that_it_was_undone(database_url: str) -> None:
    shop = Shop(database_url, DyingStore())
    heard: list[str] = []

    def view() -> Any:
        event.listen(shop.db.session(), "after_commit", lambda _: heard.append("committed"))
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        return "no", 500

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    shop.app.test_client().post("/orders", headers=KEY)
    assert (heard, shop.items()) == (["committed"], [])


def test_a_connection_of_its_own_stands_by_itself(database_url: str) -> None:
    """And on SQLite, where there is one writer, it waits for the view in vain: that is a conflict."""
    sqlite = database_url.startswith("sqlite")
    options = {"connect_args": {"timeout": 0.05}} if sqlite else {}
    shop = Shop(database_url, DyingStore(), engine_options=options)

    def view() -> Any:
        shop.db.session.add(shop.Order(item="ours"))
        shop.db.session.commit()
        with shop.db.engine.begin() as other:
            other.execute(text("INSERT INTO orders (id, item) VALUES (99, 'its own')"))
        return "no", 500

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    heard = shop.app.test_client().post("/orders", headers=KEY)
    assert heard.status_code == (503 if sqlite else 500)
    assert shop.items() == ([] if sqlite else ["its own"])


class Routing(Session):
    """Reads from a replica, writes to the primary, as SQLAlchemy's documentation has it."""

    primary: Engine
    replica: Engine

    def get_bind(self, mapper: Any = None, *, clause: Any = None, **_: Any) -> Engine:
        return self.primary if self._flushing or (clause is not None and not clause.is_select) else self.replica


@pytest.mark.parametrize("status", [201, 500])
def test_a_read_replica_does_not_see_what_the_view_has_committed(
    database_url: str, tmp_path: Path, status: int
) -> None:
    primary, replica = create_engine(database_url), create_engine(f"sqlite:///{tmp_path / 'replica.db'}")
    renew(primary)
    Base.metadata.create_all(replica)
    options = {"primary": primary, "replica": replica}
    sessions = scoped_session(sessionmaker(class_=type("Routed", (Routing,), options)))
    # The session as such is bound to where it writes.
    sessions.get_bind = lambda: primary  # type: ignore[method-assign,assignment,misc]
    app = Flask(__name__)
    Idempotency(app, store=MemoryStore(), policy=Policy(atomic=True), session=sessions)
    seen: list[int] = []

    def view() -> Any:
        sessions.add(Line(item="a"))
        sessions.commit()
        seen.append(sessions.query(Line).count())
        return "answer", status

    app.add_url_rule("/orders", "orders", view, methods=["POST"])
    assert app.test_client().post("/orders", headers=KEY).status_code == status
    sessions.remove()
    assert seen == [0]
    assert lines(primary) == (["a"] if status == 201 else [])
    for engine in (primary, replica):
        engine.dispose()

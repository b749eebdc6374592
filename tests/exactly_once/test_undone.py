"""What was undone leaves nothing behind that the next run, or whoever answers instead, could go on from."""

from typing import Any

from flask import Response, after_this_request, g
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from flask_idempotency.stores import MemoryStore
from tests.exactly_once.shop import Shop

KEY = {"Idempotency-Key": "order-1"}


class Deadlock(Exception):
    sqlstate = "40P01"


def shop_whose_hook_loads(database_url: str) -> Shop:
    """A shop whose sessions keep what they have loaded, past a commit."""
    shop = Shop(database_url, MemoryStore(), on_conflict="rerun")
    shop.db.session.session_factory.configure(expire_on_commit=False)
    with shop.app.app_context():
        shop.db.session.add(shop.Order(id=1, item="paid"))
        shop.db.session.commit()

    def load() -> None:
        g.order = shop.db.session.get(shop.Order, 1)

    shop.app.before_request(load)
    return shop


def test_a_rerun_starts_from_the_rows_that_stand_though_sessions_do_not_expire_at_a_commit(database_url: str) -> None:
    shop = shop_whose_hook_loads(database_url)
    runs: list[None] = []

    def view() -> Any:
        runs.append(None)
        g.order.item += "!"
        shop.db.session.commit()
        if len(runs) == 1:
            raise OperationalError("UPDATE", {}, Deadlock())
        return g.order.item, 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    assert shop.app.test_client().post("/orders", headers=KEY).data == b"paid!"
    assert (len(runs), shop.items()) == (2, ["paid!"])


def test_an_error_handler_sees_the_rows_that_stand_though_sessions_do_not_expire_at_a_commit(database_url: str) -> None:
    shop = shop_whose_hook_loads(database_url)
    shop.app.register_error_handler(ZeroDivisionError, lambda error: (g.order.item, 500))

    def view() -> Any:
        g.order.item += "!"
        shop.db.session.commit()
        raise ZeroDivisionError

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    assert shop.app.test_client().post("/orders", headers=KEY).data == b"paid"


def test_a_hook_whose_transaction_met_anothers_is_a_conflict_before_the_view_begins(postgresql_url: str) -> None:
    shop = Shop(postgresql_url, MemoryStore(), engine_options={"isolation_level": "SERIALIZABLE"})
    count = text("SELECT count(*) FROM orders")
    seen: list[None] = []

    def note() -> None:
        shop.db.session.execute(count)
        shop.db.session.add(shop.Order(item="seen"))
        shop.db.session.flush()
        if not seen:
            with shop.db.engine.begin() as other:
                other.execute(count)
                other.execute(text("INSERT INTO orders (item) VALUES ('theirs')"))
        seen.append(None)

    shop.app.before_request(note)
    shop.app.add_url_rule("/orders", "orders", lambda: ("answer", 201), methods=["POST"])
    client = shop.app.test_client()
    refused = client.post("/orders", headers=KEY)
    assert (refused.status_code, refused.json["type"].rpartition("#")[2]) == (503, "transaction-conflict")
    assert client.post("/orders", headers=KEY).status_code == 201
    assert shop.items() == ["seen", "theirs"]


def test_what_an_undone_run_wanted_done_to_its_answer_is_not_done_to_that_of_the_rerun(database_url: str) -> None:
    shop = Shop(database_url, MemoryStore(), on_conflict="rerun")
    runs: list[str] = []
    done_by: list[str] = []

    def note(run: str, response: Response) -> Response:
        done_by.append(run)
        return response

    def before() -> None:
        after_this_request(lambda response: note("hook", response))

    def view() -> Any:
        run = f"run {len(runs)}"
        runs.append(run)
        after_this_request(lambda response: note(run, response))
        if len(runs) == 1:
            raise OperationalError("UPDATE", {}, Deadlock())
        return "answer", 201

    shop.app.before_request(before)
    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    assert shop.app.test_client().post("/orders", headers=KEY).status_code == 201
    assert done_by == ["hook", "run 1"]

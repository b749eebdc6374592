"""The store of records in the application's own database, beside the rows: nothing waits for itself, nothing aborts."""

import time
from typing import Any

import pytest
from sqlalchemy import text

from flask_idempotency.engine.store import Store
from flask_idempotency.stores import EncryptedStore, SQLAlchemyStore, SQLiteStore
from tests.exactly_once.crashing import COMMITTED, LEASE
from tests.exactly_once.shop import Shop
from tests.exactly_once.test_crashes import ask_until_answered, kill_at

KEY = {"Idempotency-Key": "order-1"}

LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


class OneDatabase(Shop):
    """A shop whose records are in `db`, as its rows are."""

    def __init__(self, url: str, *, engine_options: dict[str, Any] | None = None, **more: Any) -> None:
        given = _Late()
        self.store = SQLAlchemyStore(given)
        super().__init__(url, self.store, engine_options=engine_options, **more)
        given.db = self.db
        with self.app.app_context(), self.db.engine.begin() as connection:
            for table in (self.store.table, self.store.step_table):
                table.drop(connection, checkfirst=True)

    def lease_ends(self) -> float | None:
        with self.db.engine.connect() as connection:
            ends: float | None = connection.execute(text("SELECT lease_ends FROM idempotency_records")).scalar_one()
            return ends


class _Late:
    """Stands for `db`, which the shop makes."""

    db: Any = None

    @property
    def engine(self) -> Any:
        return self.db.engine


@pytest.fixture(params=["postgresql", "mariadb"])
def server_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.mark.parametrize("level", LEVELS)
def test_the_heartbeat_renews_beside_the_view_at_every_isolation_level(server_url: str, level: str) -> None:
    shop = OneDatabase(server_url, engine_options={"isolation_level": level}, lease=0.6)

    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        # Within the view's transaction, whose snapshot stands from here on.
        before = shop.db.session.query(shop.Order).count()
        first = shop.lease_ends()
        renewals = {first}
        for _ in range(1000):
            renewals.add(shop.lease_ends())
            if len(renewals) > 2:
                break
            time.sleep(0.01)
        shop.db.session.add(shop.Order(item="pen"))
        shop.db.session.commit()
        return {"before": before, "renewed": len(renewals) > 2}, 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    client = shop.app.test_client()
    first = client.post("/orders", headers=KEY)
    assert (first.status_code, first.json) == (201, {"before": 1, "renewed": True})
    again = client.post("/orders", headers=KEY)
    assert (again.json, again.headers["Idempotent-Replayed"]) == (first.json, "true")
    assert (shop.items(), shop.proofs()) == (["book", "pen"], 1)


@pytest.mark.parametrize("level", LEVELS)
def test_steps_are_kept_though_the_rows_around_them_are_undone(server_url: str, level: str) -> None:
    shop = OneDatabase(server_url, engine_options={"isolation_level": level})
    charged: list[None] = []

    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        charge = shop.idempotency.step("charge", lambda: charged.append(None) or len(charged))
        return {"charge": charge}, 503 if fail else 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    client = shop.app.test_client()
    fail = True
    assert client.post("/orders", headers=KEY).status_code == 503
    assert shop.items() == []
    fail = False
    done = client.post("/orders", headers=KEY)
    assert (done.status_code, done.json) == (201, {"charge": 1})
    assert (len(charged), shop.items()) == (1, ["book"])


def test_on_sqlite_a_view_with_its_records_in_the_same_file_ends(tmp_path: Any) -> None:
    """One writer: the heartbeat waits for the view, and goes on after it."""
    shop = OneDatabase(
        f"sqlite:///{tmp_path / 'shop.db'}", engine_options={"connect_args": {"timeout": 0.05}}, lease=0.3
    )

    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        time.sleep(0.6)  # longer than the lease: every renewal in it has failed
        return "answer", 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    heard = [shop.app.test_client().post("/orders", headers=KEY) for _ in range(2)]
    assert [each.status_code for each in heard] == [201, 201]
    assert heard[1].headers["Idempotent-Replayed"] == "true"
    assert (shop.items(), shop.proofs()) == (["book"], 1)


def test_on_sqlite_a_step_cannot_be_kept_in_the_file_that_the_view_has_locked_and_says_so(tmp_path: Any) -> None:
    """Documented: give the records a file of their own. It is an error, at once, and nothing is done."""
    shop = OneDatabase(f"sqlite:///{tmp_path / 'shop.db'}")
    shop.app.config["PROPAGATE_EXCEPTIONS"] = True
    charged: list[None] = []

    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        shop.idempotency.step("charge", lambda: charged.append(None))
        return "answer", 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    with pytest.raises(RuntimeError, match="give the store a file of its own"):
        shop.app.test_client().post("/orders", headers=KEY)
    assert (charged, shop.items(), shop.proofs()) == ([], [], 0)


@pytest.mark.parametrize("encrypted", [True, False])
def test_so_it_is_with_the_embedded_store_in_that_file(tmp_path: Any, encrypted: bool) -> None:
    store: Store = SQLiteStore(tmp_path / "shop.db")
    if encrypted:
        store = EncryptedStore(store, ["key-" * 10])
    shop = Shop(f"sqlite:///{tmp_path / 'shop.db'}", store)
    shop.app.config["PROPAGATE_EXCEPTIONS"] = True
    shop.app.add_url_rule("/orders", "orders", lambda: str(shop.idempotency.step("charge", dict)), methods=["POST"])
    with pytest.raises(RuntimeError, match="give the store a file of its own"):
        shop.app.test_client().post("/orders", headers=KEY)


def test_on_sqlite_steps_are_kept_in_another_file(tmp_path: Any) -> None:
    shop = Shop(f"sqlite:///{tmp_path / 'shop.db'}", SQLiteStore(tmp_path / "idempotency.db"))
    charged: list[None] = []

    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        charge = shop.idempotency.step("charge", lambda: charged.append(None) or len(charged))
        return str(charge), statuses.pop(0)

    statuses = [500, 201]
    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    client = shop.app.test_client()
    heard = [client.post("/orders", headers=KEY) for _ in range(3)]
    assert [(each.status_code, each.text) for each in heard] == [(500, "1"), (201, "1"), (201, "1")]
    assert (len(charged), shop.items()) == (1, ["book"])


@pytest.mark.parametrize("ending", ["kept", "not kept"])
@pytest.mark.parametrize("boundary", ["after the view's commit", "before the outer commit", "after the outer commit"])
def test_killed_at_any_instant_rows_and_answer_are_both_there_or_both_absent(
    server_url: str, boundary: str, ending: str
) -> None:
    shop = OneDatabase(server_url, lease=LEASE)
    kill_at(boundary, server_url, server_url, ending)
    committed = boundary in COMMITTED
    kind = "released" if ending == "not kept" else "done"
    assert (shop.items(), shop.kinds()) == ((["book", "pen"], [kind]) if committed else ([], []))
    heard = ask_until_answered(server_url, server_url, ending)
    runs_twice = committed and ending == "not kept"
    assert (heard["status"], heard["replayed"]) == (402 if ending == "not kept" else 201, committed and not runs_twice)
    assert (shop.items(), shop.kinds()) == (sorted(["book", "pen"] * (2 if runs_twice else 1)), [kind])

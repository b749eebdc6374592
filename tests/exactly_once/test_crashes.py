"""The crash matrix: killed at any instant, the rows and the answer are both there or both absent; then once."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from flask_idempotency.exactly_once.joined import OuterTransaction
from flask_idempotency.stores import MemoryStore, SQLiteStore
from tests.exactly_once.crashing import COMMITTED, CROSSINGS, LEASE
from tests.exactly_once.shop import Shop
from tests.proxies import Proxy, Trouble

ROOT = Path(__file__).parents[2]


def serve_in_a_process(
    database_url: str, store_url: str, ending: str, boundary: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.exactly_once.crashing", database_url, store_url, ending, boundary],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def kill_at(boundary: str, database_url: str, store_url: str, ending: str) -> None:
    killed = serve_in_a_process(database_url, store_url, ending, boundary)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


ORDERED = ["book", "pen"]


@pytest.mark.parametrize(("ending", "boundary"), CROSSINGS)
def test_killed_at_any_instant_rows_and_answer_are_both_there_or_both_absent(
    database_url: str, tmp_path: Path, ending: str, boundary: str
) -> None:
    store_url = f"sqlite:///{tmp_path / 'idempotency.db'}"
    shop = Shop(database_url, SQLiteStore(tmp_path / "idempotency.db"))
    kill_at(boundary, database_url, store_url, ending)
    committed = boundary in COMMITTED
    kind = "released" if ending == "not kept" else "done"
    assert (shop.items(), shop.kinds()) == ((ORDERED, [kind]) if committed else ([], []))
    heard = ask_until_answered(database_url, store_url, ending)
    if ending == "not kept":
        # It ended, so the next runs afresh; what died before its end is seen to have lapsed.
        assert (heard["status"], heard["json"]) == (402, {"ordered": 2, "lapsed": not committed})
        assert (shop.items(), shop.kinds()) == (sorted(ORDERED * (2 if committed else 1)), ["released"])
        return
    if ending == "streamed" and committed:
        assert (heard["status"], kind_of(heard["json"])) == (409, "response-not-kept")
    else:
        assert (heard["status"], heard["replayed"]) == (201, committed)
        assert heard["json"] == {"ordered": 2, "lapsed": not committed}
    assert (shop.items(), shop.kinds()) == (ORDERED, ["done"])


@pytest.mark.parametrize("ending", ["kept", "not kept"])
def test_an_attempt_that_takes_over_may_be_killed_as_well(database_url: str, tmp_path: Path, ending: str) -> None:
    store_url = f"sqlite:///{tmp_path / 'idempotency.db'}"
    shop = Shop(database_url, SQLiteStore(tmp_path / "idempotency.db"))
    kill_at("after the view's commit", database_url, store_url, ending)
    for boundary in ("after the hold", "before the outer commit"):
        time.sleep(LEASE * 1.5)
        kill_at(boundary, database_url, store_url, ending)
        assert (shop.items(), shop.kinds()) == ([], ["held"])
    time.sleep(LEASE * 1.5)
    kill_at("after the outer commit", database_url, store_url, ending)
    assert (shop.items(), shop.kinds()) == (ORDERED, ["done" if ending == "kept" else "released"])
    heard = ask_until_answered(database_url, store_url, ending)
    # What the last of them has said is what is heard again, or that it ended is known.
    assert heard["json"] == {"ordered": 2, "lapsed": ending == "kept"}
    assert (shop.items(), shop.kinds()) == (
        (ORDERED, ["done"]) if ending == "kept" else (sorted(ORDERED * 2), ["released"])
    )


def kind_of(problem: Any) -> str:
    return str(problem["type"]).rpartition("#")[2]


def ask_until_answered(database_url: str, store_url: str, ending: str) -> dict[str, Any]:
    """What a client hears that asks again until the claim of the dead process has lapsed."""
    for _ in range(20):
        asked = serve_in_a_process(database_url, store_url, ending, "none")
        assert asked.returncode == 0, asked.stderr
        heard: dict[str, Any] = json.loads(asked.stdout)
        if heard["status"] != 409 or kind_of(heard["json"]) != "request-in-progress":
            return heard
        time.sleep(LEASE / 4)
    raise AssertionError("the claim of a dead process did not lapse")


@pytest.fixture(params=["postgresql", "mariadb"])
def server_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database that a connection can be lost to."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


#: How a session asks which connection it is, and how another ends that one.
CUT = {
    "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"),
    "mysql": ("SELECT connection_id()", "KILL CONNECTION {}"),
}


@pytest.mark.parametrize("status", [201, 402])
@pytest.mark.parametrize("boundary", ["after the flush", "after the view's commit", "before the outer commit"])
def test_a_connection_lost_before_the_commit_leaves_nothing_and_the_retry_runs(
    server_url: str, boundary: str, status: int
) -> None:
    shop = Shop(server_url, MemoryStore())
    cut_now = make_cutter(shop)
    cuts: list[str] = []

    def cut(here: str) -> None:
        if here == boundary and not cuts:
            cuts.append(here)
            cut_now()

    def view() -> Any:
        shop.db.session.add_all([shop.Order(item="book"), shop.Order(item="pen")])
        shop.db.session.flush()
        cut("after the flush")
        shop.db.session.commit()
        cut("after the view's commit")
        return {"ordered": 2}, status

    leave = OuterTransaction.leave

    def leave_and_cut(outer: OuterTransaction) -> None:
        leave(outer)
        if not cuts:
            cut_connection(shop, outer.connection, boundary, cuts)

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    client = shop.app.test_client()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OuterTransaction, "leave", leave_and_cut)
        lost = client.post("/orders", headers={"Idempotency-Key": "order-1"})
    assert cuts == [boundary]
    assert lost.status_code == 500
    assert (shop.items(), shop.kinds()) == ([], [])
    assert client.post("/orders", headers={"Idempotency-Key": "order-1"}).json == {"ordered": 2}
    assert (shop.items(), shop.kinds()) == (["book", "pen"], ["done" if status == 201 else "released"])


def make_cutter(shop: Shop) -> Callable[[], None]:
    def cut_now() -> None:
        ask, end = CUT[shop.db.engine.dialect.name]
        number = shop.db.session.execute(text(ask)).scalar()
        with shop.db.engine.connect() as other:
            other.execute(text(end.format(number)))

    return cut_now


def cut_connection(shop: Shop, connection: Any, boundary: str, cuts: list[str]) -> None:
    if boundary != "before the outer commit":
        return
    cuts.append(boundary)
    ask, end = CUT[shop.db.engine.dialect.name]
    number = connection.execute(text(ask)).scalar()
    with shop.db.engine.connect() as other:
        other.execute(text(end.format(number)))


@pytest.mark.parametrize("status", [201, 402])
def test_a_commit_whose_reply_is_lost_is_found_to_stand(database_url: str, status: int) -> None:
    shop = Shop(database_url, MemoryStore())
    commit = OuterTransaction.commit

    def commit_and_lose_the_reply(outer: OuterTransaction) -> None:
        commit(outer)
        raise OperationalError("COMMIT", {}, ConnectionError("lost"), connection_invalidated=True)

    runs = []

    def view() -> Any:
        runs.append(None)
        shop.db.session.add_all([shop.Order(item="book"), shop.Order(item="pen")])
        shop.db.session.commit()
        return {"ordered": len(runs)}, status

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    client = shop.app.test_client()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OuterTransaction, "commit", commit_and_lose_the_reply)
        first = client.post("/orders", headers={"Idempotency-Key": "order-1"})
    assert (first.status_code, first.json, len(runs)) == (status, {"ordered": 1}, 1)
    assert "Idempotent-Replayed" not in first.headers
    again = client.post("/orders", headers={"Idempotency-Key": "order-1"})
    assert (again.status_code, again.json) == (status, {"ordered": 1 if status == 201 else 2})
    assert (shop.items(), shop.kinds()) == (
        (ORDERED, ["done"]) if status == 201 else (sorted(ORDERED * 2), ["released"])
    )


@pytest.mark.parametrize("status", [201, 402])
@pytest.mark.parametrize(
    ("trouble", "stands"),
    [(Trouble.LOSE_REPLY, True), (Trouble.LOSE_REQUEST, False)],
    ids=["after the commit", "before the commit"],
)
def test_a_connection_that_breaks_at_the_outer_commit_itself_leaves_both_or_neither(
    server_url: str, trouble: Trouble, stands: bool, status: int
) -> None:
    """The commit is sent, and no reply comes: the network alone knows how far it came."""
    server = make_url(server_url)
    assert server.host is not None
    assert server.port is not None
    with Proxy((server.host, server.port)) as proxy:
        through = server.set(port=proxy.port).render_as_string(hide_password=False)
        shop = Shop(through, MemoryStore())
        seen: list[None] = []

        def view() -> Any:
            seen.append(None)
            shop.db.session.add_all([shop.Order(item="book"), shop.Order(item="pen")])
            shop.db.session.commit()
            if len(seen) == 1:
                proxy.fail_next(trouble, matching=b"COMMIT")
            return {"ordered": 2}, status

        shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
        client = shop.app.test_client()
        first = client.post("/orders", headers={"Idempotency-Key": "order-1"})
        assert [fault.trouble for fault in proxy.struck] == [trouble]
        kind = "done" if status == 201 else "released"
        assert first.status_code == (status if stands else 500)
        assert (shop.items(), shop.kinds()) == ((ORDERED, [kind]) if stands else ([], []))
        again = client.post("/orders", headers={"Idempotency-Key": "order-1"})
        assert (again.status_code, again.json) == (status, {"ordered": 2})
        assert len(seen) == (1 if stands and status == 201 else 2)
        assert (shop.items(), shop.kinds()) == (sorted(ORDERED * (2 if stands and status == 402 else 1)), [kind])
        with shop.app.app_context():
            shop.db.engine.dispose()

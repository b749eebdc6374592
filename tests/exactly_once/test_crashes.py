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
from tests.exactly_once.crashing import BOUNDARIES, COMMITTED, LEASE
from tests.exactly_once.shop import Shop
from tests.proxies import Proxy, Trouble

ROOT = Path(__file__).parents[2]


def serve_in_a_process(database_url: str, store_url: str, boundary: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.exactly_once.crashing", database_url, store_url, boundary],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_killed_at_any_instant_rows_and_answer_are_both_there_or_both_absent(
    database_url: str, tmp_path: Path, boundary: str
) -> None:
    store_url = f"sqlite:///{tmp_path / 'idempotency.db'}"
    shop = Shop(database_url, SQLiteStore(tmp_path / "idempotency.db"))
    killed = serve_in_a_process(database_url, store_url, boundary)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = boundary in COMMITTED
    assert (shop.items(), shop.proofs()) == ((["book", "pen"], 1) if done else ([], 0))
    heard = ask_until_answered(database_url, store_url)
    assert (heard["status"], heard["json"], heard["replayed"]) == (201, {"ordered": 2}, done)
    assert (shop.items(), shop.proofs()) == (["book", "pen"], 1)


def ask_until_answered(database_url: str, store_url: str) -> dict[str, Any]:
    """What a client hears that asks again until the claim of the dead process has lapsed."""
    for _ in range(20):
        asked = serve_in_a_process(database_url, store_url, "none")
        assert asked.returncode == 0, asked.stderr
        heard: dict[str, Any] = json.loads(asked.stdout)
        if heard["status"] != 409:
            return heard
        assert heard["json"]["type"].endswith(":request-in-progress")
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


@pytest.mark.parametrize("boundary", ["after the flush", "after the view's commit", "before the outer commit"])
def test_a_connection_lost_before_the_commit_leaves_nothing_and_the_retry_runs(server_url: str, boundary: str) -> None:
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
        return {"ordered": 2}, 201

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
    assert (shop.items(), shop.proofs()) == ([], 0)
    assert client.post("/orders", headers={"Idempotency-Key": "order-1"}).json == {"ordered": 2}
    assert (shop.items(), shop.proofs()) == (["book", "pen"], 1)


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


def test_a_commit_whose_reply_is_lost_is_found_to_stand(database_url: str) -> None:
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
        return {"ordered": 2}, 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    client = shop.app.test_client()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OuterTransaction, "commit", commit_and_lose_the_reply)
        first = client.post("/orders", headers={"Idempotency-Key": "order-1"})
    again = client.post("/orders", headers={"Idempotency-Key": "order-1"})
    assert (first.status_code, first.json) == (again.status_code, again.json) == (201, {"ordered": 2})
    assert len(runs) == 1
    assert (shop.items(), shop.proofs()) == (["book", "pen"], 1)


@pytest.mark.parametrize(
    ("trouble", "runs"),
    [(Trouble.LOSE_REPLY, 1), (Trouble.LOSE_REQUEST, 2)],
    ids=["after the commit", "before the commit"],
)
def test_a_connection_that_breaks_at_the_outer_commit_itself_leaves_both_or_neither(
    server_url: str, trouble: Trouble, runs: int
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
            return {"ordered": 2}, 201

        shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
        client = shop.app.test_client()
        first = client.post("/orders", headers={"Idempotency-Key": "order-1"})
        assert [fault.trouble for fault in proxy.struck] == [trouble]
        assert first.status_code == (201 if runs == 1 else 500)
        again = client.post("/orders", headers={"Idempotency-Key": "order-1"})
        assert (again.status_code, again.json) == (201, {"ordered": 2})
        assert len(seen) == runs
        assert (shop.items(), shop.proofs()) == (["book", "pen"], 1)
        with shop.app.app_context():
            shop.db.engine.dispose()

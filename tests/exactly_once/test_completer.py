"""`flask idempotency complete`: the work that a crash left half-done and that no client comes back for."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, select

from flask_idempotency.exactly_once.kept_requests import KeptRequest, request_table
from tests.exactly_once.abandoning import HEADERS, LEASE, make, order
from tests.exactly_once.shop import Shop

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> tuple[str, str]:
    return database_url, str(tmp_path / "idempotency.db")


@pytest.fixture
def shop(place: tuple[str, str]) -> Shop:
    shop = make(*place, fresh=True)
    with shop.app.app_context():
        table = request_table(MetaData())
        table.drop(shop.db.engine, checkfirst=True)
        table.create(shop.db.engine)
    return shop


def die_in_mid_handler(place: tuple[str, str]) -> None:
    command = [sys.executable, "-m", "tests.exactly_once.abandoning", *place]
    killed = subprocess.run(command, cwd=ROOT, env=os.environ | {"die": "1"}, timeout=60, stderr=subprocess.PIPE)
    assert killed.returncode < 0, killed.stderr


def kept(shop: Shop) -> list[Any]:
    with shop.app.app_context(), shop.db.engine.connect() as connection:
        return list(connection.execute(select(request_table(MetaData()))).mappings())


def change(shop: Shop, **changed: Any) -> None:
    """Change what the only kept request says, and let it be due."""
    (row,) = kept(shop)
    request = replace(KeptRequest.unpack(bytes(row["request"])), **changed)
    with shop.app.app_context(), shop.db.engine.begin() as connection:
        connection.execute(request_table(MetaData()).update().values(request=request.pack(), due_at=0))


def complete(shop: Shop) -> tuple[int, str]:
    done = shop.app.test_cli_runner().invoke(args=["idempotency", "complete"])
    return done.exit_code, done.output.splitlines()[0]


def test_what_a_crash_left_is_finished_and_the_client_hears_of_it(shop: Shop, place: tuple[str, str]) -> None:
    die_in_mid_handler(place)
    assert shop.items() == []
    assert len(kept(shop)) == 1
    time.sleep(LEASE * 1.5)
    assert complete(shop) == (0, "1 completed, 0 in progress or refused, 0 failed")
    assert shop.items() == ["book for ada"]
    assert kept(shop) == []
    heard = order(shop.app)
    assert (heard.status_code, heard.json, heard.headers["Idempotent-Replayed"]) == (201, {"ordered": "book"}, "true")
    assert shop.items() == ["book for ada"]


def test_a_client_that_comes_back_first_leaves_nothing_to_finish(shop: Shop, place: tuple[str, str]) -> None:
    die_in_mid_handler(place)
    time.sleep(LEASE * 1.5)
    assert order(shop.app).status_code == 201
    assert complete(shop) == (0, "0 completed, 0 in progress or refused, 0 failed")
    assert shop.items() == ["book for ada"]


def test_a_request_in_good_hands_is_left_alone(shop: Shop, place: tuple[str, str]) -> None:
    die_in_mid_handler(place)
    # Its lease is over by the clock of the table, but not by the store's, as that of a process that still renews it.
    with shop.app.app_context(), shop.db.engine.begin() as connection:
        connection.execute(request_table(MetaData()).update().values(due_at=0))
    exit_code, line = complete(shop)
    assert (exit_code, line) == (0, "0 completed, 1 in progress or refused, 0 failed")
    assert shop.items() == []
    assert len(kept(shop)) == 1


def test_credentials_are_not_kept(shop: Shop, place: tuple[str, str]) -> None:
    die_in_mid_handler(place)
    (row,) = kept(shop)
    assert b"secret" not in row["request"]
    names = {name for name, _ in KeptRequest.unpack(bytes(row["request"])).headers}
    assert names == {"Content-Type", "Host", "Idempotency-Key", "User-Agent"}


def test_an_answered_request_is_not_kept_whatever_the_answer(shop: Shop) -> None:
    assert order(shop.app, fail=True).status_code == 500
    assert kept(shop) == []
    assert order(shop.app).status_code == 201
    assert kept(shop) == []


def test_an_exception_that_passes_by_everything_leaves_nothing_to_finish(shop: Shop) -> None:
    shop.app.config["PROPAGATE_EXCEPTIONS"] = True
    client = shop.app.test_client()
    with pytest.raises(KeyError):
        client.post("/orders", json={}, headers=HEADERS)  # no item
    assert kept(shop) == []


def test_a_request_that_was_torn_off_stays_to_be_finished(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn_off() -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(shop.db.session, "commit", torn_off)
        with pytest.raises(SystemExit):
            order(shop.app)
    assert len(kept(shop)) == 1
    time.sleep(LEASE * 1.5)
    assert complete(shop) == (0, "1 completed, 0 in progress or refused, 0 failed")
    assert shop.items() == ["book for ada"]


def test_one_whose_principal_nobody_knows_how_to_enter_as_is_left_waiting(shop: Shop, place: tuple[str, str]) -> None:
    die_in_mid_handler(place)
    time.sleep(LEASE * 1.5)
    change(shop, context={"user": None})
    done = shop.app.test_cli_runner().invoke(args=["idempotency", "complete"])
    assert (done.exit_code, "1 left waiting" in done.output) == (1, True)
    assert shop.items() == []
    assert len(kept(shop)) == 1

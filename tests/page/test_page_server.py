"""The server's side of the page: who may break what."""

from pathlib import Path
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app import create_app
from example_page.timeline import Timeline

FAULTS = ["lost-request", "lost-answer", "slow", "crash"]


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    return create_app({"SHOP_DATABASE": tmp_path / "shop.db", "IDEMPOTENCY_STORE_URL": "memory://"})


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def wishes(run: str, fault: str, *, attempt: int = 1, side: str = "keyed") -> dict[str, str]:
    return {
        "Page-Run": run, "Page-Side": side, "Page-Attempt": str(attempt), "Page-Fault": fault, "Idempotency-Key": run,
    }  # fmt: skip


def open_run(client: FlaskClient) -> tuple[str, dict[str, object]]:
    run = str(uuid4())
    accounts = client.put(f"/demo/runs/{run}").get_json()["keyed"]
    return run, {"from": accounts["customer"], "to": accounts["seller"], "amount": 20}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_befalls_the_shop_of_the_api(client: FlaskClient, fault: str) -> None:
    run, _ = open_run(client)
    transfer = {"from": "alice", "to": "bob", "amount": 20}
    assert client.post("/api/transfers", json=transfer, headers=wishes(run, fault)).status_code == 201
    assert client.get(f"/demo/runs/{run}").get_json()["events"] == []


def test_the_page_moves_none_of_the_money_of_the_api(client: FlaskClient) -> None:
    run, transfer = open_run(client)
    assert client.post("/demo/shop/api/transfers", json=transfer, headers=wishes(run, "")).status_code == 201
    assert client.get("/api/accounts").get_json() == [{"id": "alice", "balance": 1000}, {"id": "bob", "balance": 1000}]
    assert client.get("/api/transfers").get_json() == []
    assert client.post("/api/unprotected/transfers", json=transfer).status_code == 404


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_befalls_a_request_of_no_run(client: FlaskClient, fault: str) -> None:
    _, transfer = open_run(client)
    strange = wishes(str(uuid4()), fault)
    assert client.post("/demo/shop/api/transfers", json=transfer, headers=strange).status_code == 201


@pytest.mark.parametrize("fault", ["lost-request", "lost-answer", "crash"])
def test_a_server_that_hands_out_no_socket_is_told_by_an_error(client: FlaskClient, fault: str) -> None:
    run, transfer = open_run(client)
    with pytest.raises(ConnectionResetError):
        client.post("/demo/shop/api/transfers", json=transfer, headers=wishes(run, fault))
    state = client.get(f"/demo/runs/{run}").get_json()
    assert state["working"] == 0
    assert len(state["transfers"]["keyed"]) == (0 if fault == "lost-request" else 1)


def test_a_run_is_shown_to_those_who_know_its_name_and_tells_no_key(client: FlaskClient) -> None:
    run, transfer = open_run(client)
    client.post("/demo/shop/api/transfers", json=transfer, headers=wishes(run, "") | {"Idempotency-Key": "secret-key"})
    state = client.get(f"/demo/runs/{run}")
    assert [event["what"] for event in state.get_json()["events"]] == [
        "arrived", "claimed", "moved", "completed", "answered",
    ]  # fmt: skip
    assert "secret-key" not in state.text
    assert client.get(f"/demo/runs/{uuid4()}").get_json()["events"] == []
    assert client.get("/demo/runs/").status_code == 404


@pytest.mark.parametrize(
    "stranger", [{"REMOTE_ADDR": "192.0.2.7"}, {"HTTP_X_FORWARDED_FOR": "192.0.2.7"}, {"HTTP_FORWARDED": "for=_x"},
                 {"REMOTE_ADDR": ""}]
)  # fmt: skip
def test_only_this_machines_own_browser_gets_in(client: FlaskClient, stranger: dict[str, str]) -> None:
    run, transfer = open_run(client)
    for path in ("/", "/demo/page.js", f"/demo/runs/{run}", "/demo/shop/api/transfers"):
        assert client.get(path, environ_overrides=stranger).status_code == 403
    for path in ("/demo/shop/api/transfers", "/demo/shop/api/unprotected/transfers"):
        assert client.post(path, json=transfer, headers=wishes(run, ""), environ_overrides=stranger).status_code == 403
    assert client.get("/api/accounts", environ_overrides=stranger).status_code == 200


def test_the_page_can_be_left_away(tmp_path: Path) -> None:
    client = create_app({"SHOP_DATABASE": tmp_path / "shop.db", "SHOP_PAGE": False}).test_client()
    assert "/api/payments" in client.get("/").get_json()["paths"]
    for path in ("/demo/page.js", f"/demo/runs/{uuid4()}", "/demo/shop/api/transfers"):
        assert client.get(path).status_code == 404


def test_only_the_pages_own_files_are_served(client: FlaskClient) -> None:
    assert client.get("/demo/idempotency.js").mimetype == "text/javascript"
    for name in ("page.py", "faults.py", "..%2Fexample_app.py", "__init__.py"):
        assert client.get(f"/demo/{name}").status_code == 404


def test_the_timeline_remembers_the_latest_runs_only_and_not_all_of_a_long_one() -> None:
    timeline = Timeline()
    for number in range(1000):
        timeline.open(str(number))
        timeline.tell("999", "keyed", 1, "arrived")
    for _ in range(1000):
        timeline.tell("999", "keyed", 1, "arrived")
    assert not timeline.knows("0")
    assert timeline.knows("999")
    events, _ = timeline.of("999")
    assert len(events) < 1000
    assert timeline.of("0") == ([], 0)

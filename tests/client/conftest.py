"""The world of the client tests: a till, a network before it that fails on demand, and each client of ours."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from flask_idempotency.client import RetryPolicy

from .client_kinds import CLIENTS, QUICK, Client, Httpx, Requests
from .faulty_network import Fault, FaultyNetwork
from .payment_server import Running, Till


@pytest.fixture
def till() -> Till:
    return Till()


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    with Running(None) as running:
        yield running


@pytest.fixture
def server(running: Running, till: Till) -> Running:
    running.app = till
    return running


@pytest.fixture
def network(server: Running) -> Iterator[Callable[..., FaultyNetwork]]:
    """Makes a network before the server, with these faults for the first attempts."""
    networks: list[FaultyNetwork] = []

    def make(*faults: Fault) -> FaultyNetwork:
        networks.append(FaultyNetwork(server.address, faults))
        return networks[-1]

    yield make
    for made in networks:
        made.close()


@pytest.fixture(params=CLIENTS, ids=[kind.__name__ for kind in CLIENTS])
def make_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., Client]]:
    """Makes a client of each kind: requests, httpx, httpx under asyncio."""
    clients: list[Client] = []

    def make(policy: RetryPolicy = QUICK, **options: Any) -> Client:
        clients.append(request.param(policy, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def requests_client() -> Iterator[Requests]:
    with closing(Requests(QUICK)) as client:
        yield client


@pytest.fixture
def httpx_client() -> Iterator[Httpx]:
    with closing(Httpx(QUICK)) as client:
        yield client


@pytest.fixture(params=[Requests, Httpx], ids=["Requests", "Httpx"])
def sync_client(request: pytest.FixtureRequest) -> Iterator[Requests | Httpx]:
    """Those that take files: httpx knows no files as the content of asynchronous requests."""
    with closing(request.param(QUICK)) as client:
        yield client


@pytest.fixture
def client(make_client: Callable[..., Client]) -> Client:
    return make_client()

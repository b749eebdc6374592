"""The servers that the tests of the Redis store share, each started once per session."""

from collections.abc import Iterator

import pytest

from tests.proxies import Proxy

from . import servers


@pytest.fixture(scope="session")
def valkey() -> Iterator[servers.Server]:
    """One server alone, which nobody restarts."""
    server = servers.Server()
    with servers.running(server):
        yield server


@pytest.fixture(scope="session")
def valkey_cluster() -> Iterator[list[servers.Server]]:
    """Three masters in cluster mode."""
    with servers.cluster() as nodes:
        yield nodes


@pytest.fixture(scope="session")
def valkey_pair() -> Iterator[servers.Pair]:
    """A master with a replica and a Sentinel, none of which fails."""
    # More patient than any machine is slow: a failover that nobody asked for would fail the wrong tests.
    with servers.pair(patience=600_000) as pair:
        yield pair


@pytest.fixture
def own_valkey() -> Iterator[servers.Server]:
    """A server for one test, which may do to it what it likes."""
    server = servers.Server()
    with servers.running(server):
        yield server


@pytest.fixture
def proxy(valkey: servers.Server) -> Iterator[Proxy]:
    """A network to the one server, which fails on demand."""
    with Proxy(valkey.address) as proxy:
        yield proxy

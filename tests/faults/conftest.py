"""The servers that are struck by faults, each started once per session, and a name for the records of a test."""

import uuid
from collections.abc import Iterator

import pytest

from tests.databases import MariaDB, postgresql, running_mariadb
from tests.stores.redis.servers import Server, running


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """One server alone, which keeps nothing on its disk."""
    server = Server()
    with running(server):
        yield server


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    # Once a second it would write what did not wait for the disk, and nobody could tell when.
    with running_mariadb("--innodb-flush-log-at-timeout=2700") as server:
        yield server


@pytest.fixture
def run() -> str:
    """Tells the records of one test from those of all others."""
    return str(uuid.uuid4())

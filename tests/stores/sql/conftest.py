"""The database servers that the store is tested on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import mariadb, postgresql


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_url() -> Iterator[str]:
    with mariadb() as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite+pysqlite:///{tmp_path / 'records.db'}"


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of each database in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url

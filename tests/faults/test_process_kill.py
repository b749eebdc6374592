"""A process of the application is killed: whatever it had written is there for the next, but for what was in memory."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flask_idempotency.stores import open_store

from .kept import ALL, left_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "valkey":
            return str(request.getfixturevalue("valkey").url)
        case "postgresql":
            return str(request.getfixturevalue("postgresql_url"))
        case "mariadb":
            return str(request.getfixturevalue("mariadb").url)
        case written:
            return str(written).format(tmp_path / "records.db")


STORES = ["sqlite:///{}", "sqlite:///{}?durable=false", "sqlite+pysqlite:///{}", "valkey", "postgresql", "mariadb"]


@pytest.mark.parametrize("url", STORES, indirect=True)
def test_what_a_killed_process_has_written_is_kept(url: str, run: str) -> None:
    keep_each_and_die(url, run)
    assert left_of(open_store(url), run) == ALL


@pytest.mark.parametrize("url", ["memory://"], indirect=True)
def test_what_a_killed_process_had_in_memory_is_gone(url: str, run: str) -> None:
    keep_each_and_die(url, run)
    assert left_of(open_store(url), run) == set()


def keep_each_and_die(url: str, run: str) -> None:
    died = subprocess.run(
        [sys.executable, "-m", "tests.faults.dying", url, run], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert died.returncode == -signal.SIGKILL, died.stderr

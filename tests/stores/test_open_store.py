"""One config line chooses the store."""

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from flask import Flask

from flask_idempotency import Idempotency
from flask_idempotency.stores import MemoryStore, RedisStore, SQLAlchemyStore, SQLiteStore, open_store
from flask_idempotency.testing.contract import FINGERPRINT, new_record

from .usual import USUAL


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", MemoryStore),
        ("sqlite:///a.db", SQLiteStore),
        ("sqlite:///a.db?durable=false", SQLiteStore),
        ("sqlite:///:memory:", SQLiteStore),
        ("redis://localhost:1/0", RedisStore),
        ("valkey://localhost:1/0", RedisStore),
        ("rediss://localhost:1/0", RedisStore),
        ("redis+sentinel://localhost:1/main/0", RedisStore),
        ("redis+cluster://localhost:1", RedisStore),
        ("postgresql+psycopg://localhost:1/shop", SQLAlchemyStore),
        ("mysql+pymysql://localhost:1/shop", SQLAlchemyStore),
        ("mariadb+pymysql://localhost:1/shop", SQLAlchemyStore),
        ("sqlite+pysqlite:///a.db", SQLAlchemyStore),
    ],
)
def test_each_scheme_opens_its_store_without_connecting(url: str, kind: type, tmp_path: Path) -> None:
    assert isinstance(open_store(url, directory=tmp_path), kind)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "idempotency.db",
        "mongodb://user:hush@localhost/x",
        "memory://x",
        "sqlite://user:hush@x/y",
        "sqlite:///x?a=b",
        "sqlite:",
        "sqlite:///",
        "sqlite:////var/lib/",
    ],
)
def test_a_url_that_names_no_store_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError) as refused:
        open_store(url)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("query", "durable", "expected"),
    [
        ("", None, True),
        ("", True, True),
        ("", False, False),
        ("?durable=false", None, False),
        ("?durable=false", False, False),
        ("?durable=true", True, True),
    ],
)
def test_durable_may_stand_in_the_url_or_beside_it(
    tmp_path: Path, query: str, durable: bool | None, expected: bool
) -> None:
    store = open_store(f"sqlite:///a.db{query}", directory=tmp_path, durable=durable)
    assert isinstance(store, SQLiteStore)
    assert store._file._durable is expected


@pytest.mark.parametrize(
    ("url", "durable"),
    [
        ("sqlite:///a.db?durable=false", True),
        ("sqlite:///a.db?durable=true", False),
        ("memory://", True),
        ("memory://", False),
        ("redis://u:hush@localhost", True),
        ("sqlite+pysqlite:///a.db", False),
        ("postgresql+psycopg://u:hush@localhost/x", False),
    ],
)
def test_durable_is_refused_where_it_would_not_be_heeded(url: str, durable: bool) -> None:
    with pytest.raises(ValueError, match="durable") as refused:
        open_store(url, durable=durable)
    assert "hush" not in str(refused.value)


def test_a_relative_path_starts_in_the_instance_folder(tmp_path: Path) -> None:
    app = Flask(__name__, instance_path=str(tmp_path / "instance"))
    app.config["IDEMPOTENCY_STORE_URL"] = "sqlite:///deep/records.db"
    Idempotency(app)
    app.add_url_rule("/", "index", lambda: "ok", methods=["POST"])
    assert app.test_client().post("/", headers={"Idempotency-Key": "k"}).status_code == 200
    assert (tmp_path / "instance" / "deep" / "records.db").exists()


@pytest.mark.parametrize(
    ("module", "url", "extra"),
    [("redis", "redis://localhost", "redis"), ("sqlalchemy", "postgresql+psycopg://localhost/x", "sqlalchemy")],
)
def test_a_missing_extra_is_named_by_the_error(module: str, url: str, extra: str) -> None:
    code = f"""
import sys
sys.modules[{module!r}] = None
from flask_idempotency.stores import open_store
open_store({url!r})
"""
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert failed.returncode == 1
    assert f"pip install 'flask-idempotency[{extra}]'" in failed.stderr


def test_a_path_is_taken_from_where_the_store_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("records.db")
    monkeypatch.chdir("/")
    store.purge(limit=1)
    assert (tmp_path / "records.db").exists()


def test_a_database_in_memory_is_one_for_all_threads_and_leaves_nothing_behind() -> None:
    store = SQLiteStore(":memory:")
    record = new_record()
    claim = partial(store.claim, record, FINGERPRINT, **USUAL)
    with ThreadPoolExecutor(8) as pool:
        outcomes = [future.result() for future in [pool.submit(claim) for _ in range(8)]]
    del claim
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Claimed"] + ["InProgress"] * 7
    folder = store._file.path.parent
    assert folder.exists()
    store.close()
    del store
    gc.collect()
    assert not folder.exists()

"""The embedded stores under the contract that all stores fulfil."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from freezegun import freeze_time

from flask_idempotency.engine.store import Store
from flask_idempotency.stores import MemoryStore, SQLiteStore
from flask_idempotency.testing import StoreContract


class EmbeddedStoreContract(StoreContract):
    """Embedded stores ask this process's clock, which is stopped here and moved by the tests."""

    @pytest.fixture(autouse=True)
    def pass_time(self) -> Iterator[Callable[[float], None]]:
        with freeze_time("2026-11-24 12:00:00") as clock:

            def pass_time(seconds: float) -> None:
                clock.tick(seconds)

            yield pass_time


class TestMemoryStore(EmbeddedStoreContract):
    @pytest.fixture(autouse=True)
    def the_only_store(self) -> None:
        self.only = MemoryStore()

    def open_store(self) -> Store:
        return self.only


class OneFile:
    path: Path

    @pytest.fixture(autouse=True)
    def one_file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "idempotency.db"

    def open_store(self) -> Store:
        return SQLiteStore(self.path)


class TestSQLiteStore(OneFile, EmbeddedStoreContract):
    pass


class TestFastSQLiteStore(OneFile, EmbeddedStoreContract):
    def open_store(self) -> Store:
        return SQLiteStore(self.path, durable=False)


class TestSQLiteStoreInRealTime(OneFile, StoreContract):
    pass

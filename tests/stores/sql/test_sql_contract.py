"""The SQL store under the contract that all stores fulfil, on each database."""

import pytest

from flask_idempotency.engine.store import Store
from flask_idempotency.stores import SQLAlchemyStore
from flask_idempotency.testing import StoreContract


class OnADatabase(StoreContract):
    short = 0.4
    url: str

    def open_store(self) -> Store:
        return SQLAlchemyStore(self.url)


class TestOnPostgreSQL(OnADatabase):
    @pytest.fixture(autouse=True)
    def on(self, postgresql_url: str) -> None:
        self.url = postgresql_url


class TestOnMariaDB(OnADatabase):
    @pytest.fixture(autouse=True)
    def on(self, mariadb_url: str) -> None:
        self.url = mariadb_url


class TestOnSQLite(OnADatabase):
    @pytest.fixture(autouse=True)
    def on(self, sqlite_url: str) -> None:
        self.url = sqlite_url

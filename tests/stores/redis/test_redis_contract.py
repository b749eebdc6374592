"""The Redis store under the contract that all stores fulfil, however its server is reached."""

from collections.abc import Iterator

import pytest
import redis

from flask_idempotency.engine.store import Store
from flask_idempotency.stores.redis import RedisStore
from flask_idempotency.testing import StoreContract

from . import servers


class TestRedisStore(StoreContract):
    short = 0.3

    @pytest.fixture(autouse=True)
    def at(self, valkey: servers.Server) -> None:
        self.url = valkey.url

    def open_store(self) -> Store:
        return RedisStore.from_url(self.url)


class TestRedisStoreOnACluster(StoreContract):
    short = 0.3

    @pytest.fixture(autouse=True)
    def at(self, valkey_cluster: list[servers.Server]) -> None:
        self.url = servers.cluster_url(valkey_cluster)

    def open_store(self) -> Store:
        return RedisStore.from_url(self.url)


class TestRedisStoreWithAClientOfAnothersMaking(StoreContract):
    """It decodes replies, speaks the older protocol and knows its master from Sentinel; each completion waits for
    the replica. It stays its owner's."""

    short = 0.3

    @pytest.fixture(autouse=True)
    def client(self, valkey_pair: servers.Pair) -> Iterator[None]:
        sentinel = redis.Sentinel([valkey_pair.sentinel.address])
        self.theirs = sentinel.master_for("records", decode_responses=True, protocol=2)
        yield
        assert self.theirs.ping()
        self.theirs.close()
        sentinel.close()

    def open_store(self) -> Store:
        return RedisStore(self.theirs, prefix="somewhere else:", min_replicas=1)

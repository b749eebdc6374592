"""The Redis store under the contract that all stores fulfil, however its server is reached."""

from collections.abc import Iterator

import pytest

from flask_idempotency.engine.store import Store
from flask_idempotency.stores.redis import RedisStore
from flask_idempotency.testing import StoreContract

from . import servers


class TestRedisStore(StoreContract):
    short = 0.4

    @pytest.fixture(autouse=True)
    def at(self, valkey: servers.Server) -> None:
        self.url = valkey.url

    def open_store(self) -> Store:
        return RedisStore.from_url(self.url)


class TestRedisStoreOnACluster(StoreContract):
    short = 0.4

    @pytest.fixture(autouse=True)
    def at(self, valkey_cluster: list[servers.Server]) -> None:
        self.url = servers.cluster_url(valkey_cluster)

    def open_store(self) -> Store:
        return RedisStore.from_url(self.url)


class TestRedisStoreThroughSentinelAndWaitingForItsReplica(StoreContract):
    short = 0.4

    @pytest.fixture(autouse=True)
    def at(self, valkey_pair: servers.Pair) -> None:
        self.url = valkey_pair.url

    def open_store(self) -> Store:
        return RedisStore.from_url(self.url, min_replicas=1)


class TestRedisStoreWithAClientThatDecodes(StoreContract):
    """A client as applications have them: it decodes replies, speaks the older protocol, and stays its owner's."""

    short = 0.4

    @pytest.fixture(autouse=True)
    def client(self, valkey: servers.Server) -> Iterator[None]:
        with valkey.client(decode_responses=True, protocol=2) as self.theirs:
            yield
            assert self.theirs.ping()

    def open_store(self) -> Store:
        return RedisStore(self.theirs, prefix="somewhere else:")

"""The Redis store under the contract that all stores fulfil, however its server is reached."""

from collections.abc import Callable, Iterator

import pytest
import redis

from flask_idempotency.engine.store import Store
from flask_idempotency.stores import EncryptedStore
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


class OtherwiseReached(StoreContract):
    """Time that passes is taken from the records instead, which costs none: `TestRedisStore` has it pass for real."""

    servers: list[servers.Server]

    @pytest.fixture(autouse=True)
    def empty(self, at: None) -> None:
        for server in self.servers:
            with server.client() as client:
                client.flushdb()

    @pytest.fixture
    def pass_time(self) -> Callable[[float], None]:
        return self.take_from_records

    def take_from_records(self, seconds: float) -> None:
        passed = round(seconds * 1000)
        for server in self.servers:
            with server.client() as client:
                for key in client.scan_iter():
                    left = client.pttl(key)
                    if 0 <= left <= passed:
                        client.delete(key)
                        continue
                    if left > 0:
                        client.pexpire(key, left - passed)
                    for field in ("started", "lease_ends"):
                        if client.hexists(key, field):
                            client.hincrby(key, field, -passed)


class TestRedisStoreOnACluster(OtherwiseReached):
    @pytest.fixture
    def at(self, valkey_cluster: list[servers.Server]) -> None:
        self.servers = valkey_cluster

    def open_store(self) -> Store:
        return RedisStore.from_url(servers.cluster_url(self.servers))


class TestRedisStoreWithAClientOfAnothersMaking(OtherwiseReached):
    """It decodes replies, speaks the older protocol and knows its master from Sentinel; each completion waits for
    the replica. It stays its owner's."""

    @pytest.fixture
    def at(self, valkey_pair: servers.Pair) -> Iterator[None]:
        self.servers = [valkey_pair.master]
        sentinel = redis.Sentinel([valkey_pair.sentinel.address])
        self.theirs = sentinel.master_for("records", decode_responses=True, protocol=2)
        yield
        assert self.theirs.ping()
        self.theirs.close()
        sentinel.close()

    def open_store(self) -> Store:
        return RedisStore(self.theirs, prefix="somewhere else:", min_replicas=1)


class TestRedisStoreThatIsEncrypted(OtherwiseReached):
    @pytest.fixture
    def at(self, valkey: servers.Server) -> None:
        self.servers = [valkey]

    def open_store(self) -> Store:
        return EncryptedStore(RedisStore.from_url(self.servers[0].url), ["key-" * 10], id_key="ids-" * 10)

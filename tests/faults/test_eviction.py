"""A Valkey server that is full makes room by dropping records, whatever they stand for, unless it must not."""

from collections.abc import Iterator

import pytest

from flask_idempotency.stores import RedisStore
from tests.stores.redis.servers import Server, running, wait_until

from .kept import REFUSE, keep_each, left_of


@pytest.fixture
def own() -> Iterator[Server]:
    server = Server()
    with running(server):
        yield server


def press(server: Server, policy: str, *, until: int) -> None:
    """Have others fill its memory, until so many records are left."""
    with server.client() as client:
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 1_000_000)

        def dropped() -> bool:
            for number in range(200):
                client.set(f"ballast:{number}", "x" * 10_000, ex=3600)
            return len(client.keys("idempotency:*")) == until

        wait_until(dropped, "it makes room")
        client.config_set("maxmemory", "0")


@pytest.mark.parametrize(("policy", "kept"), [("allkeys-lru", set()), ("volatile-lru", {REFUSE})])
def test_what_a_policy_may_drop_is_gone(own: Server, policy: str, kept: set[str], run: str) -> None:
    store = RedisStore.from_url(own.url)
    keep_each(store, run)
    press(own, policy, until=len(kept))
    assert left_of(store, run) == kept
    store.close()

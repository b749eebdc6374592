"""A master dies and its replica takes over, with what it has: all that was waited for, with `min_replicas`."""

from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import RedisStore
from tests.stores.redis import servers
from tests.stores.redis.calls import claim
from tests.stores.redis.lagging import running_pair

from .kept import ALL, CLAIM, keep_each, left_of


def test_what_the_replica_did_not_have_is_gone(run: str) -> None:
    with running_pair() as pair:
        store = pair.open_store()
        pair.wire.stall()
        keep_each(store, run)
        pair.fail_over()
        assert left_of(store, run) == set()


def test_what_waited_for_the_replica_is_kept(run: str) -> None:
    with servers.pair(patience=500) as pair:
        store = RedisStore.from_url(pair.url, min_replicas=1)
        keep_each(store, run)
        pair.master.kill()
        servers.wait_until(lambda: answers(store), "Sentinel makes a master of the replica")
        # The claim did not wait, but may have got there.
        assert left_of(store, run) | {CLAIM} == ALL


def answers(store: RedisStore) -> bool:
    try:
        claim(store)
    except StoreUnavailable:
        return False
    return True

"""A cluster whose slots move and whose servers die."""

from collections.abc import Iterator
from itertools import count

import pytest
import redis
from redis.crc import key_slot

from flask_idempotency.engine.records import Claim, Claimed, Completed, InProgress, RecordKey
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores.redis import RedisStore
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE, new_record

from . import servers
from .calls import claim, must_claim


@pytest.fixture
def nodes(valkey_cluster: list[servers.Server]) -> list[servers.Server]:
    """The cluster that others use as well: each test leaves it whole."""
    return valkey_cluster


@pytest.fixture
def store(nodes: list[servers.Server]) -> Iterator[RedisStore]:
    store = RedisStore.from_url(f"{servers.cluster_url(nodes)}?socket_timeout=0.5&socket_connect_timeout=0.5")
    yield store
    store.close()


def slot_of(record: RecordKey) -> int:
    return key_slot(f"idempotency:{record.id.hex()}".encode())


def record_at(place: int) -> RecordKey:
    """A record whose slot the node at `place` has."""
    low, high = servers.SLOTS[place], servers.SLOTS[place + 1]
    return next(record for record in (new_record() for _ in count()) if low <= slot_of(record) < high)


def names(nodes: list[servers.Server]) -> list[str]:
    found = []
    for node in nodes:
        with node.client() as client:
            found.append(client.execute_command("CLUSTER MYID").decode())
    return found


def test_records_live_on_every_server(store: RedisStore, nodes: list[servers.Server]) -> None:
    for place in range(3):
        must_claim(store, record_at(place))
    for node in nodes:
        with node.client() as client:
            assert client.keys("idempotency:*")


def test_a_cluster_client_that_was_handed_in_may_decode_and_stays_open(nodes: list[servers.Server]) -> None:
    with redis.RedisCluster("127.0.0.1", nodes[0].port, decode_responses=True, protocol=2) as theirs:
        store = RedisStore(theirs)
        for place in range(3):
            record = record_at(place)
            held = must_claim(store, record, lease=10)
            store.renew([held], lease=1000)
            assert lease_left(store, record) > 900
            assert store.complete(held, RESPONSE, retention=DAY) is True
            assert claim(store, record) == Completed(FINGERPRINT, RESPONSE)
        store.close()
        assert theirs.ping(target_nodes=redis.RedisCluster.PRIMARIES)


def test_claims_of_all_servers_are_renewed_together(store: RedisStore, nodes: list[servers.Server]) -> None:
    records = [record_at(place) for place in range(3) for _ in range(3)]
    claims = [must_claim(store, record, lease=10) for record in records]
    store.renew(claims, lease=1000)
    assert all(lease_left(store, record) > 900 for record in records)


def test_a_slot_that_is_moving_is_asked_for_and_one_that_has_moved_is_followed(
    store: RedisStore, nodes: list[servers.Server]
) -> None:
    source, target = nodes[0], nodes[1]
    source_id, target_id, _ = names(nodes)
    record = record_at(0)
    standing = must_claim(store, record)
    fresh = next(other for other in (new_record() for _ in count()) if slot_of(other) == slot_of(record))
    slot = slot_of(record)
    waiting = RedisStore.from_url(servers.cluster_url(nodes), min_replicas=1, replica_timeout=0.1)
    with source.client() as old, target.client() as new:
        # The topology as it is, before anything moves.
        assert isinstance(claim(waiting, record), InProgress)
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source_id)
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target_id)
        # ASK: the record is not at its old home any more, or was never there.
        held = must_claim(store, fresh)
        assert store.complete(held, RESPONSE, retention=DAY) is True
        assert claim(store, fresh) == Completed(FINGERPRINT, RESPONSE)
        key = f"idempotency:{record.id.hex()}"
        old.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        store.renew([standing], lease=1000)
        # MOVED: the slot has another home, and the client's picture of the cluster is old.
        for client in (new, old):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", target_id)
        store.renew([standing], lease=2000)
        assert lease_left(store, record) > 1900
        # No cluster of these has replicas: the completion stands, and says that it is not safe.
        with pytest.raises(StoreUnavailable, match="min_replicas"):
            waiting.complete(standing, RESPONSE, retention=DAY)
        assert claim(store, record) == Completed(FINGERPRINT, RESPONSE)
        # Back home, for the next test.
        for other in (record, fresh):
            new.delete(f"idempotency:{other.id.hex()}")
        for node in nodes:
            with node.client() as client:
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", source_id)


def test_a_dead_server_takes_only_its_own_records_with_it(store: RedisStore, nodes: list[servers.Server]) -> None:
    records = [record_at(place) for place in range(3)]
    claims: list[Claim] = [must_claim(store, record, lease=10) for record in records]
    with nodes[2].client() as client:
        client.config_set("appendonly", "yes")
        servers.wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "its data is on its disk")
    for node in nodes:
        with node.client() as client:
            client.config_set("cluster-require-full-coverage", "no")
            client.config_rewrite()
    nodes[2].kill()
    try:
        with pytest.raises(StoreUnavailable):
            claim(store, records[2])
        # Whatever the order, those of living servers are renewed.
        with pytest.raises(StoreUnavailable):
            store.renew(claims[::-1], lease=1000)
        assert [lease_left(store, record) > 900 for record in records[:2]] == [True, True]
        outcome = claim(store, record_at(0))
        assert isinstance(outcome, Claimed)
    finally:
        nodes[2].start()
    servers.wait_until(lambda: answers(store, records[2]), "its server is back in the cluster")
    store.renew(claims, lease=1000)
    assert lease_left(store, records[2]) > 900


def test_a_replica_that_took_over_is_found_for_renewals_and_for_completions_that_wait() -> None:
    with servers.cluster() as nodes, servers.running(replica := servers.Server(cluster_enabled="yes")):
        name = names(nodes)[0]
        with replica.client() as asked, nodes[0].client() as master, nodes[1].client() as other:
            asked.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port)
            servers.wait_until(lambda: nodes[0].port in masters_known_to(asked), "the replica knows its master")
            asked.execute_command("CLUSTER REPLICATE", name)
            master.set("{06S}first", "write")
            servers.wait_until(lambda: master.execute_command("WAIT", 1, 1000) == 1, "the replica is up to date")
            renewing = RedisStore.from_url(servers.cluster_url(nodes))
            completing = RedisStore.from_url(servers.cluster_url(nodes), min_replicas=1, replica_timeout=1.5)
            record = record_at(0)
            held = must_claim(completing, record, lease=60, take_over=False)
            assert isinstance(claim(renewing, record), InProgress)
            nodes[0].kill()
            asked.execute_command("CLUSTER FAILOVER", "TAKEOVER")
            servers.wait_until(lambda: replica.port in masters_known_to(other), "the others know who took over")
            renewing.renew([held], lease=1000)
            with pytest.raises(StoreUnavailable, match="min_replicas"):
                completing.complete(held, RESPONSE, retention=DAY)
            assert claim(renewing, record) == Completed(FINGERPRINT, RESPONSE)


def test_a_cluster_that_is_down_is_unavailable(store: RedisStore, nodes: list[servers.Server]) -> None:
    record = record_at(0)
    must_claim(store, record)
    slot = slot_of(record)
    with nodes[0].client() as client:
        client.execute_command("CLUSTER DELSLOTS", slot)
        try:
            with pytest.raises(StoreUnavailable, match="Cluster"):
                claim(store, record)
        finally:
            client.execute_command("CLUSTER ADDSLOTS", slot)
    servers.wait_until(lambda: answers(store, record), "the cluster covers the slot again")


def test_one_server_of_a_cluster_is_no_server_alone(nodes: list[servers.Server]) -> None:
    store = RedisStore.from_url(nodes[0].url)
    with pytest.raises(StoreUnavailable, match=r"starts with redis\+cluster://"):
        claim(store, record_at(2))


def masters_known_to(client: redis.Redis) -> set[int]:
    """The ports of the servers that have slots."""
    return {master[1] for _, _, master, *_ in client.cluster("SLOTS")}


def answers(store: RedisStore, record: RecordKey) -> bool:
    try:
        claim(store, record)
    except StoreUnavailable:
        return False
    return True


def lease_left(store: RedisStore, record: RecordKey) -> float:
    standing = claim(store, record)
    assert isinstance(standing, InProgress)
    return standing.lease_ends - servers.now()

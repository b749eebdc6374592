"""What a request costs, read from the server's own statistics."""

from collections import Counter

import pytest

from flask_idempotency.engine.records import RecordKey
from flask_idempotency.stores.redis import RedisStore
from flask_idempotency.testing.contract import DAY, RESPONSE, new_record

from . import servers
from .calls import must_claim
from .shop import Shop

#: What the scripts call on the server; it costs no round trip.
WITHIN_SCRIPTS = {"time", "hmget", "hset", "pexpire", "pttl", "persist", "del"}


class Statistics:
    """What servers say they did since they were last asked."""

    def __init__(self, *asked: servers.Server) -> None:
        self._clients = [server.client() for server in asked]
        self._before = self._look()

    def since(self) -> tuple[Counter[str], int]:
        """The commands that clients sent, and how often the servers read from a connection."""
        (commands, reads), self._before = self._before, self._look()
        calls = self._before[0] - commands
        own = len(self._clients)  # each INFO of this class
        return Counter({name: n for name, n in calls.items() if name not in WITHIN_SCRIPTS | {"info"}}), (
            self._before[1] - reads - own
        )

    def _look(self) -> tuple[Counter[str], int]:
        commands: Counter[str] = Counter()
        reads = 0
        for client in self._clients:
            told = client.info("everything")
            assert isinstance(told, dict)
            reads += told["total_reads_processed"]
            for name, value in told.items():
                if name.startswith("cmdstat_"):
                    commands[name.removeprefix("cmdstat_")] += value["calls"]
        return commands, reads


@pytest.fixture
def shop(own_valkey: servers.Server) -> Shop:
    shop = Shop(RedisStore.from_url(own_valkey.url))
    shop.post("first-use")  # looks at the eviction policy, and brings the scripts
    return shop


def test_a_fresh_request_costs_two_round_trips_and_a_replay_one(shop: Shop, own_valkey: servers.Server) -> None:
    statistics = Statistics(own_valkey)
    assert shop.post("k") == (201, False)
    assert statistics.since() == ({"evalsha": 2}, 2)
    assert shop.post("k") == (201, True)
    assert statistics.since() == ({"evalsha": 1}, 1)


def test_a_request_that_gives_its_key_back_costs_two(shop: Shop, own_valkey: servers.Server) -> None:
    shop.post("first-release", "/refused")
    statistics = Statistics(own_valkey)
    assert shop.post("k", "/refused") == (500, False)
    assert statistics.since() == ({"evalsha": 2}, 2)


def test_on_a_cluster_it_costs_no_more(valkey_cluster: list[servers.Server]) -> None:
    store = RedisStore.from_url(servers.cluster_url(valkey_cluster))
    shop = Shop(store)
    for key in range(50):  # every server has seen every script, and every connection stands
        shop.post(f"warm-{key}")
    statistics = Statistics(*valkey_cluster)
    for key in range(20):
        assert shop.post(f"cluster-{key}") == (201, False)
    assert statistics.since() == ({"evalsha": 40}, 40)
    for key in range(20):
        assert shop.post(f"cluster-{key}") == (201, True)
    assert statistics.since() == ({"evalsha": 20}, 20)


def test_waiting_for_replicas_costs_no_round_trip_of_its_own(valkey_pair: servers.Pair) -> None:
    store = RedisStore.from_url(valkey_pair.master.url, min_replicas=1)
    shop = Shop(store)
    shop.post("first-wait")
    with valkey_pair.master.client() as client:
        before = client.info("commandstats")
        assert shop.post("wait") == (201, False)
        after = client.info("commandstats")
    assert after["cmdstat_evalsha"]["calls"] - before["cmdstat_evalsha"]["calls"] == 2
    assert after["cmdstat_wait"]["calls"] - before["cmdstat_wait"]["calls"] == 1


def test_many_claims_are_renewed_in_one_round_trip(own_valkey: servers.Server) -> None:
    store = RedisStore.from_url(own_valkey.url)
    claims = [must_claim(store) for _ in range(30)]
    store.renew(claims, lease=60)
    statistics = Statistics(own_valkey)
    store.renew(claims, lease=60)
    assert statistics.since() == ({"evalsha": 30}, 1)


def test_scripts_that_the_server_forgot_cost_one_round_trip_more_once(shop: Shop, own_valkey: servers.Server) -> None:
    with own_valkey.client() as client:
        client.script_flush()
    statistics = Statistics(own_valkey)
    assert shop.post("k") == (201, False)
    assert statistics.since() == ({"evalsha": 2, "eval": 2}, 4)
    assert shop.post("another") == (201, False)
    assert statistics.since() == ({"evalsha": 2}, 2)


def test_scripts_that_the_server_forgot_are_brought_for_replicas_and_renewals_too(valkey_pair: servers.Pair) -> None:
    store = RedisStore.from_url(valkey_pair.url, min_replicas=1)
    held = must_claim(store, take_over=False)
    with valkey_pair.master.client() as client:
        client.script_flush()
        store.renew([held], lease=60)
        client.script_flush()
        assert store.complete(held, RESPONSE, retention=DAY) is True


def test_records_expire_by_themselves_and_never_before_their_lease(own_valkey: servers.Server) -> None:
    store = RedisStore.from_url(own_valkey.url)
    with own_valkey.client() as client:
        held = must_claim(store, retention=10)
        (key,) = client.keys()
        assert 59_000 < client.pttl(key) <= 60_000
        store.renew([held], lease=100)
        assert 99_000 < client.pttl(key) <= 100_000
        store.answering(held, lease=60)
        assert 69_000 < client.pttl(key) <= 70_000
        store.renew([held], lease=100)
        assert 109_000 < client.pttl(key) <= 110_000
        store.complete(held, RESPONSE, retention=10)
        assert 9_000 < client.pttl(key) <= 10_000


def test_what_a_person_must_look_at_never_expires(own_valkey: servers.Server) -> None:
    store = RedisStore.from_url(own_valkey.url)
    never = -1
    with own_valkey.client() as client:
        held = must_claim(store, record := new_record(), take_over=False)
        (key,) = client.keys()
        assert client.pttl(key) == never
        store.renew([held], lease=100)
        store.keep_step(held, "charge", b"paid", retention=10)
        assert client.pttl(key) == never
        store.release(held, retention=10)
        assert 9_000 < client.pttl(key) <= 10_000
        held = must_claim(store, record, take_over=False)
        assert client.pttl(key) == never
        store.release(held, retention=10)
        held = must_claim(store, record, take_over=True)
        assert client.pttl(key) > 10_000
        store.abandon(held)
        assert client.pttl(key) == never
        store.resolve(record.id, done=True, retention=10)
        assert 9_000 < client.pttl(key) <= 10_000


def test_who_operates_the_server_can_read_what_a_record_is_of(own_valkey: servers.Server) -> None:
    store = RedisStore.from_url(own_valkey.url)
    record = RecordKey.of(b"p" * 16, "order-1001", method="POST", path="/orders/caf\xe9")
    held = must_claim(store, record)
    with own_valkey.client(decode_responses=True) as client:
        (key,) = client.keys()
        for _ in range(2):
            assert client.hmget(key, "key", "method", "path") == ["order-1001", "POST", "/orders/caf\xe9"]
            client.delete(key)
            store.complete(held, None, retention=DAY)

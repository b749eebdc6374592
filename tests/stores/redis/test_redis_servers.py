"""Servers that are restarted, demoted, full, loading or replaced: refused in time, and right again afterwards."""

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flask_idempotency.engine.records import Claim, Claimed, Completed, InProgress, Lapsed
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores.redis import RedisStore
from flask_idempotency.stores.redis_scripts import ABANDON, ANSWERING, RELEASE, RENEW, RESOLVE
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE, new_record
from tests.proxies import Proxy, Trouble

from . import servers
from .calls import claim, must_claim
from .shop import Shop

#: Lets a client of redis-py send a command once and no more.
ONCE = Retry(NoBackoff(), 0)


@pytest.fixture
def store(own_valkey: servers.Server) -> RedisStore:
    return RedisStore.from_url(own_valkey.url)


class TestARestart:
    def test_a_restarted_server_is_found_again_and_taught_the_scripts(
        self, store: RedisStore, own_valkey: servers.Server
    ) -> None:
        claims = [must_claim(store) for _ in range(3)]
        own_valkey.restart()
        # It kept nothing: what is done is written anew, without an error.
        assert store.renew(claims, lease=60) == set()
        assert store.complete(claims[0], RESPONSE, retention=DAY) is True
        assert claim(store, claims[0].record) == Completed(FINGERPRINT, RESPONSE)
        assert store.complete(must_claim(store), RESPONSE, retention=DAY) is True

    def test_a_server_that_writes_each_answer_to_its_disk_replays_it_after_it_was_killed(self) -> None:
        server = servers.Server(appendonly="yes", appendfsync="always")
        with servers.running(server):
            shop = Shop(RedisStore.from_url(server.url))
            assert shop.post("k") == (201, False)
            server.restart()
            assert shop.post("k") == (201, True)
            assert shop.runs["k"] == 1

    def test_a_dead_server_is_unavailable_until_it_is_back(self, store: RedisStore, own_valkey: servers.Server) -> None:
        shop = Shop(store)
        own_valkey.kill()
        assert shop.post("k") == (503, False)
        own_valkey.start()
        assert shop.post("k") == (201, False)

    def test_what_a_paused_server_took_in_harms_nothing_when_it_goes_on(self, own_valkey: servers.Server) -> None:
        shop = Shop(RedisStore.from_url(f"{own_valkey.url}?socket_timeout=0.1"), on_lapse="refuse")
        shop.post("first-use")
        with own_valkey.paused():
            # The kernel takes the claims in; the server runs them when it goes on, with nobody to run under them.
            assert shop.post("k") == (503, False)
        assert shop.post("k") == (201, False)
        assert shop.post("k") == (201, True)
        assert shop.runs["k"] == 1


class TestAServerThatRefusesToWrite:
    def test_a_full_server_refuses_claims_and_completes_once_it_has_room(
        self, store: RedisStore, own_valkey: servers.Server
    ) -> None:
        record = new_record()
        held = must_claim(store, record)
        with own_valkey.client() as client:
            client.config_set("maxmemory", "100kb")
            with pytest.raises(StoreUnavailable, match="OutOfMemoryError"):
                claim(store)
            with pytest.raises(StoreUnavailable, match="OutOfMemoryError"):
                store.complete(held, RESPONSE, retention=DAY)
            # Refused as a whole: the record is no tombstone.
            assert isinstance(claim(store, record), InProgress)
            client.config_set("maxmemory", "0")
        assert store.complete(held, RESPONSE, retention=DAY) is True
        assert claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    @pytest.mark.parametrize("take_over", [True, False])
    def test_a_full_server_still_hears_how_handlers_fare(
        self, store: RedisStore, own_valkey: servers.Server, take_over: bool
    ) -> None:
        held, released, abandoned, streaming = (must_claim(store, take_over=take_over, lease=10) for _ in range(4))
        with own_valkey.client() as client:
            for script in (RENEW, RELEASE, ABANDON, ANSWERING, RESOLVE):
                client.script_load(script.text)
            client.config_set("maxmemory", "100kb")
        assert store.renew([held], lease=1000) == set()
        assert store.release(released, retention=DAY) is True
        assert store.abandon(abandoned) is True
        assert store.answering(streaming, lease=1000) is True
        for renewed in (held, streaming):
            standing = claim(store, renewed.record)
            assert isinstance(standing, InProgress)
            assert standing.lease_ends - standing.started > 900
        assert claim(store, abandoned.record) == Lapsed(FINGERPRINT)
        assert store.resolve(abandoned.record.id, done=True, retention=DAY) is True
        assert claim(store, abandoned.record) == Completed(FINGERPRINT, None)

    def test_a_master_without_the_replicas_it_must_have_refuses_claims(
        self, store: RedisStore, own_valkey: servers.Server
    ) -> None:
        with own_valkey.client() as client:
            client.config_set("min-replicas-to-write", "1")
        with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
            claim(store)

    def test_a_server_that_is_busy_with_another_script_is_unavailable(
        self, store: RedisStore, own_valkey: servers.Server
    ) -> None:
        must_claim(store)
        with own_valkey.client(socket_timeout=None) as client, own_valkey.client() as other:
            client.config_set("busy-reply-threshold", "1")

            def spin() -> None:
                with pytest.raises(redis.ResponseError):
                    client.eval("while true do end", 0)

            spinning = threading.Thread(target=spin)
            spinning.start()

            def busy() -> bool:
                try:
                    other.get("x")
                except redis.ResponseError as error:
                    return "BUSY" in str(error)
                return False

            servers.wait_until(busy, "the server is busy")
            with pytest.raises(StoreUnavailable, match="BUSY"):
                claim(store)
            other.execute_command("SCRIPT KILL")
            spinning.join(servers.PATIENCE)
        must_claim(store)

    def test_a_server_that_loads_its_data_is_unavailable_until_it_has(self) -> None:
        server = servers.Server(loading_process_events_interval_bytes="1024")
        with servers.running(server), server.client(retry=ONCE) as client:
            for number in range(1000):
                client.set(f"ballast:{number}", "x" * 4000)
            client.save()
            client.config_set("key-load-delay", "5000")  # microseconds
            client.config_rewrite()
            server.kill()
            server.spawn()

            def loading() -> bool:
                try:
                    client.ping()
                except redis.BusyLoadingError:
                    return True
                except redis.ConnectionError:
                    return False
                raise AssertionError("it loaded too fast for this test")

            servers.wait_until(loading, "the server loads")
            store = RedisStore.from_url(server.url)
            with pytest.raises(StoreUnavailable, match="BusyLoadingError"):
                claim(store)
            client.config_set("key-load-delay", "0")

            def loaded() -> bool:
                try:
                    return bool(client.ping())
                except redis.BusyLoadingError:
                    return False

            servers.wait_until(loaded, "the server has loaded")
            must_claim(store)

    def test_a_user_who_may_not_run_scripts_is_told_so(self, own_valkey: servers.Server) -> None:
        with own_valkey.client() as client:
            client.acl_setuser("app", enabled=True, passwords=["+pw"], commands=["-@all"], keys=["*"])
        with pytest.raises(StoreUnavailable, match="NoPermissionError"):
            claim(RedisStore.from_url(f"redis://app:pw@127.0.0.1:{own_valkey.port}"))

    def test_a_wrong_password_is_not_tried_twice(self, own_valkey: servers.Server) -> None:
        with own_valkey.client() as client:
            client.config_set("requirepass", "another")
        with Proxy(own_valkey.address) as proxy:
            with pytest.raises(StoreUnavailable, match="AuthenticationError"):
                claim(RedisStore.from_url(f"redis://:wrong@127.0.0.1:{proxy.port}"))
            assert proxy.connections == 1

    def test_an_error_that_quotes_what_was_sent_is_cut_short(self) -> None:
        server = servers.Server(**{"rename-command EVALSHA": '""'})
        with servers.running(server):
            store = RedisStore.from_url(server.url)
            with pytest.raises(StoreUnavailable, match="unknown command") as refused:
                store.complete(Claim(new_record(), FINGERPRINT, b"a token of this."), RESPONSE, retention=DAY)
        assert "a token of this" in str(refused.value.__cause__)
        assert "token" not in str(refused.value)

    def test_a_key_of_another_kind_is_no_record(self, store: RedisStore, own_valkey: servers.Server) -> None:
        record = new_record()
        with own_valkey.client() as client:
            client.lpush(f"idempotency:{record.id.hex()}", "x")
        with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
            claim(store, record)

    def test_a_response_that_cannot_be_read_is_never_replayed_nor_run_again(
        self, store: RedisStore, own_valkey: servers.Server
    ) -> None:
        record = new_record()
        store.complete(must_claim(store, record), RESPONSE, retention=DAY)
        with own_valkey.client() as client:
            client.hset(f"idempotency:{record.id.hex()}", "response", b"\xff\xff")
        with pytest.raises(StoreUnavailable, match="cannot be read"):
            claim(store, record)


class TestADemotedMaster:
    @pytest.fixture
    def successor(self) -> Iterator[servers.Server]:
        server = servers.Server()
        with servers.running(server):
            yield server

    def demote(self, master: servers.Server, successor: servers.Server) -> None:
        with master.client() as client:
            client.replicaof("127.0.0.1", successor.port)

    def test_it_is_read_only_and_claims_nothing(
        self, store: RedisStore, own_valkey: servers.Server, successor: servers.Server
    ) -> None:
        held = must_claim(store)
        self.demote(own_valkey, successor)
        with pytest.raises(StoreUnavailable, match="ReadOnlyError"):
            claim(store)
        # Refused, or fenced where the successor's data, which never had the claim, has come by now.
        with suppress(StoreUnavailable):
            assert store.complete(held, RESPONSE, retention=DAY) is False

    def test_where_its_name_points_to_the_successor_already_the_next_try_finds_it(
        self, own_valkey: servers.Server, successor: servers.Server
    ) -> None:
        with Proxy(own_valkey.address) as name:
            store = RedisStore.from_url(f"redis://127.0.0.1:{name.port}")
            must_claim(store)
            self.demote(own_valkey, successor)
            # As DNS does on managed services: standing connections stay with the old master, which stays alive.
            name.server = successor.address
            assert store.complete(must_claim(store), RESPONSE, retention=DAY) is True


class TestEviction:
    def warnings(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        return [
            r.getMessage() for r in caplog.records if "maxmemory-policy" in r.getMessage() and r.levelname == "WARNING"
        ]

    @pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
    @pytest.mark.parametrize("maxmemory", ["0", "100mb"])
    def test_a_policy_that_can_drop_records_is_said_aloud_once(
        self,
        store: RedisStore,
        own_valkey: servers.Server,
        caplog: pytest.LogCaptureFixture,
        policy: str,
        maxmemory: str,
    ) -> None:
        with own_valkey.client() as client:
            client.config_set("maxmemory-policy", policy)
            client.config_set("maxmemory", maxmemory)
        for _ in range(3):
            must_claim(store)
        (warning,) = self.warnings(caplog)
        assert policy in warning
        assert "noeviction" in warning
        assert ("memory is full" in warning) is (maxmemory != "0")
        assert caplog.records[0].name == "flask_idempotency"

    def test_a_policy_that_drops_nothing_needs_no_word(
        self, store: RedisStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        must_claim(store)
        assert self.warnings(caplog) == []

    def test_where_the_server_does_not_tell_the_log_says_that_nobody_looked(
        self, own_valkey: servers.Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        with own_valkey.client() as client:
            client.acl_setuser(
                "app", enabled=True, passwords=["+pw"], commands=["+@all", "-info", "-config"], keys=["*"]
            )
        must_claim(RedisStore.from_url(f"redis://app:pw@127.0.0.1:{own_valkey.port}"))
        assert "does not tell its maxmemory-policy" in caplog.text

    def test_a_look_that_the_network_failed_is_taken_again(
        self, own_valkey: servers.Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        with own_valkey.client() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        with Proxy(own_valkey.address) as proxy:
            store = RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}")
            proxy.fail_next(Trouble.LOSE_REQUEST, matching=b"\nINFO\r")
            must_claim(store)
            assert self.warnings(caplog) == []
            must_claim(store)
        assert len(self.warnings(caplog)) == 1

    def test_of_a_cluster_every_master_is_asked(
        self, valkey_cluster: list[servers.Server], caplog: pytest.LogCaptureFixture
    ) -> None:
        with valkey_cluster[2].client() as client:
            client.config_set("maxmemory-policy", "allkeys-lfu")
            try:
                must_claim(RedisStore.from_url(servers.cluster_url(valkey_cluster)))
            finally:
                client.config_set("maxmemory-policy", "noeviction")
        (warning,) = self.warnings(caplog)
        assert "allkeys-lfu" in warning


class TestAClientThatWasHandedIn:
    def test_its_pool_may_be_exhausted(self, own_valkey: servers.Server) -> None:
        with own_valkey.client(max_connections=1) as client:
            store = RedisStore(client)
            must_claim(store)
            taken = client.connection_pool.get_connection()
            with pytest.raises(StoreUnavailable, match="Too many connections"):
                claim(store)
            client.connection_pool.release(taken)
            must_claim(store)

    def test_it_is_named_in_errors_without_its_password(self, own_valkey: servers.Server) -> None:
        with own_valkey.client(password="s3cret") as client:
            assert repr(RedisStore(client)) == f"<RedisStore at 127.0.0.1:{own_valkey.port}>".replace(
                "127.0.0.1", "localhost"
            )


def test_it_works_without_hiredis(own_valkey: servers.Server) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HIREDIS, own_valkey.url],
        capture_output=True,
        text=True,
        timeout=servers.PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")


#: A program, since redis-py chooses its parser when it is imported.
WITHOUT_HIREDIS = """
import sys
sys.modules["hiredis"] = None
import redis.utils
assert not redis.utils.HIREDIS_AVAILABLE
from flask_idempotency.engine.records import Completed, StoredResponse
from flask_idempotency.stores.redis import RedisStore
from tests.stores.redis.calls import FINGERPRINT, claim, must_claim
store = RedisStore.from_url(sys.argv[1])
response = StoredResponse("200 OK", (), bytes(range(256)) * 4096)
for _ in range(2):
    held = must_claim(store)
    assert store.keep_step(held, "charge", b"paid", retention=60)
    assert store.load_steps(held) == {"charge": b"paid"}
    assert store.renew([held] * 3, lease=60) == set()
    assert store.complete(held, response, retention=60)
    assert claim(store, held.record) == Completed(FINGERPRINT, response)
"""


def test_a_claimed_number_counts_takeovers_since_the_key_was_free(store: RedisStore) -> None:
    record = new_record()
    numbers = []
    for _ in range(3):
        outcome = claim(store, record, lease=0.001)
        assert isinstance(outcome, Claimed)
        numbers.append(outcome.number)
        servers.pause()
    assert numbers == [1, 2, 3]


def test_a_thread_that_is_torn_off_before_the_reply_leaves_it_to_nobody(
    own_valkey: servers.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisStore.from_url(own_valkey.url)
    done = must_claim(store)
    store.complete(done, RESPONSE, retention=DAY)

    def torn_off(*arguments: object, **options: object) -> object:
        raise KeyboardInterrupt

    answers: list[object] = []
    asked = threading.Thread(target=lambda: answers.append(claim(store)))
    with own_valkey.paused():  # so that the reply comes only after the connection is back
        with monkeypatch.context() as patch:
            patch.setattr(redis.Connection, "read_response", torn_off)
            with pytest.raises(KeyboardInterrupt):
                claim(store, done.record)
        asked.start()
    asked.join(20)
    assert isinstance(answers[0], Claimed), "it heard of another record"


def test_a_claim_whose_thread_was_torn_off_is_this_processes_own(
    store: RedisStore, own_valkey: servers.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    must_claim(store)
    record = new_record()

    def torn_off(*arguments: object, **options: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(redis.Connection, "read_response", torn_off)
        with pytest.raises(KeyboardInterrupt):
            claim(store, record)
    with own_valkey.client() as client:
        servers.wait_until(lambda: client.exists(f"idempotency:{record.id.hex()}") == 1, "the server has run it")
    outcome = claim(store, record)
    assert isinstance(outcome, Claimed)
    assert outcome.number == 1

"""A server that answers late, twice or not at all: what the client hears, and how often the work runs."""

from collections.abc import Iterator

import pytest

from flask_idempotency.engine.events import Outcome
from flask_idempotency.engine.records import Claimed, InProgress, RecordKey
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import redis_server
from flask_idempotency.stores.redis import RedisStore
from flask_idempotency.stores.redis_scripts import CLAIM, COMPLETE, RELEASE, RENEW, Script
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE, new_record
from tests.proxies import Proxy, Trouble

from . import servers
from .shop import Shop

#: A call of the store is tried so many times.
TRIES = 3

every_trouble = pytest.mark.parametrize("trouble", list(Trouble), ids=[trouble.name for trouble in Trouble])


def of(script: Script) -> bytes:
    """What marks the requests that run `script`."""
    return script.digest.encode()


@pytest.fixture
def store(proxy: Proxy, valkey: servers.Server) -> Iterator[RedisStore]:
    """A store behind a network that fails; its scripts are known to the server, and its connection stands."""
    store = RedisStore.from_url(f"redis://{proxy.host}:{proxy.port}?socket_timeout=0.2&socket_connect_timeout=0.2")
    with valkey.client() as client:
        for script in (CLAIM, COMPLETE, RELEASE, RENEW):
            client.script_load(script.text)
    store.claim(new_record(), FINGERPRINT, lease=1, retention=1)
    yield store
    proxy.restore()
    store.close()


@every_trouble
class TestOneRequestMeetsTrouble:
    """Sent again with the token it had: nobody notices."""

    def test_claiming(self, store: RedisStore, proxy: Proxy, trouble: Trouble, idempotency_key: str) -> None:
        shop = Shop(store)
        proxy.fail_next(trouble, matching=of(CLAIM))
        assert shop.post(idempotency_key) == (201, False)
        proxy.settle()
        assert shop.post(idempotency_key) == (201, True)
        assert shop.runs[idempotency_key] == 1
        assert shop.heard == [Outcome.CLAIMED, Outcome.COMPLETED, Outcome.REPLAYED]
        assert len(proxy.struck) == 1

    def test_completing(self, store: RedisStore, proxy: Proxy, trouble: Trouble, idempotency_key: str) -> None:
        shop = Shop(store)
        proxy.fail_next(trouble, matching=of(COMPLETE))
        assert shop.post(idempotency_key) == (201, False)
        proxy.settle()
        assert shop.post(idempotency_key) == (201, True)
        assert shop.runs[idempotency_key] == 1
        assert shop.heard == [Outcome.CLAIMED, Outcome.COMPLETED, Outcome.REPLAYED]
        assert len(proxy.struck) == 1

    def test_releasing(self, store: RedisStore, proxy: Proxy, trouble: Trouble, idempotency_key: str) -> None:
        shop = Shop(store)
        proxy.fail_next(trouble, matching=of(RELEASE))
        assert shop.post(idempotency_key, "/refused") == (500, False)
        proxy.settle()
        assert shop.post(idempotency_key, "/refused") == (500, False)
        assert shop.runs[idempotency_key] == 2
        assert shop.heard == [Outcome.CLAIMED, Outcome.RELEASED] * 2
        assert len(proxy.struck) == 1

    def test_renewing(self, store: RedisStore, proxy: Proxy, trouble: Trouble) -> None:
        record = new_record()
        claimed = store.claim(record, FINGERPRINT, lease=2, retention=DAY)
        assert isinstance(claimed, Claimed)
        proxy.fail_next(trouble, matching=of(RENEW))
        store.renew([claimed.claim], lease=600)
        proxy.settle()
        standing = store.claim(record, FINGERPRINT, lease=2, retention=DAY)
        assert isinstance(standing, InProgress)
        assert standing.lease_ends - servers.now() > 500
        assert len(proxy.struck) == 1


@every_trouble
class TestEveryTryMeetsTrouble:
    """What cannot be claimed does not run; what cannot be completed is completed later."""

    def test_claiming(self, store: RedisStore, proxy: Proxy, trouble: Trouble, idempotency_key: str) -> None:
        shop = Shop(store)
        proxy.fail_next(trouble, matching=of(CLAIM), times=TRIES)
        response = shop.app.test_client().post("/orders", json={}, headers={"Idempotency-Key": idempotency_key})
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        assert response.json is not None
        assert response.json["type"].endswith("store-unavailable")
        assert shop.runs[idempotency_key] == 0
        assert len(proxy.struck) == TRIES
        proxy.settle()
        # The claim may stand on the server by now. It is this process's own, and nobody runs under it.
        assert shop.post(idempotency_key) == (201, False)
        assert shop.runs[idempotency_key] == 1
        assert shop.heard == [Outcome.STORE_UNAVAILABLE, Outcome.CLAIMED, Outcome.COMPLETED]

    def test_completing(self, store: RedisStore, proxy: Proxy, trouble: Trouble, idempotency_key: str) -> None:
        shop = Shop(store)
        proxy.fail_next(trouble, matching=of(COMPLETE), times=TRIES)
        assert shop.post(idempotency_key) == (201, False)
        assert shop.heard[:2] == [Outcome.CLAIMED, Outcome.DEFERRED]
        servers.wait_until(lambda: Outcome.COMPLETED_LATE in shop.heard, "the answer is kept in the background")
        assert len(proxy.struck) == TRIES
        assert shop.post(idempotency_key) == (201, True)
        assert shop.runs[idempotency_key] == 1


class TestTheWholeNetworkFails:
    def test_a_network_that_hangs_makes_no_request_hang(
        self, store: RedisStore, proxy: Proxy, idempotency_key: str
    ) -> None:
        shop = Shop(store)
        proxy.stall()
        began = servers.now()
        assert shop.post(idempotency_key) == (503, False)
        # Three tries, each with a connection and a reply to wait for.
        assert servers.now() - began < 5
        proxy.restore()
        assert shop.post(idempotency_key) == (201, False)
        assert shop.runs[idempotency_key] == 1

    def test_no_further_try_begins_once_patience_has_run_out(
        self, store: RedisStore, proxy: Proxy, idempotency_key: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_server, "_PATIENCE", 0.1)
        proxy.fail_next(Trouble.STALL_REPLY, matching=of(CLAIM), times=TRIES)
        assert Shop(store).post(idempotency_key) == (503, False)
        assert len(proxy.struck) == 1

    def test_connections_that_were_reset_while_idle_cost_nothing(
        self, store: RedisStore, proxy: Proxy, idempotency_key: str
    ) -> None:
        shop = Shop(store)
        assert shop.post(idempotency_key) == (201, False)
        proxy.drop()
        assert shop.post(idempotency_key) == (201, True)

    def test_a_server_that_refuses_connections_is_unavailable_until_it_does_not(
        self, store: RedisStore, proxy: Proxy, idempotency_key: str
    ) -> None:
        shop = Shop(store)
        proxy.refuse()
        assert shop.post(idempotency_key) == (503, False)
        proxy.restore()
        assert shop.post(idempotency_key) == (201, False)
        assert shop.runs[idempotency_key] == 1

    def test_a_policy_may_let_requests_run_unprotected(
        self, store: RedisStore, proxy: Proxy, idempotency_key: str
    ) -> None:
        shop = Shop(store, on_store_error="run")
        proxy.refuse()
        assert [shop.post(idempotency_key), shop.post(idempotency_key)] == [(201, False)] * 2
        assert shop.runs[idempotency_key] == 2
        assert shop.heard == [Outcome.UNPROTECTED] * 2

    def test_an_answer_that_waits_to_be_kept_keeps_its_key_from_running_again(
        self, store: RedisStore, proxy: Proxy, valkey: servers.Server, idempotency_key: str
    ) -> None:
        lease = 1.2
        shop, elsewhere = Shop(store, lease=lease), RedisStore.from_url(valkey.url)
        proxy.fail_next(Trouble.LOSE_REQUEST, matching=of(COMPLETE), times=1000)
        began = servers.now()
        assert shop.post(idempotency_key) == (201, False)
        record_id = shop.events[0].record_id
        assert record_id is not None
        while servers.now() < began + 1.3 * lease:
            standing = elsewhere.claim(RecordKey(record_id), b"another payload.", lease=lease, retention=DAY)
            assert isinstance(standing, InProgress)
            assert not standing.lapsed
            servers.pause()
        proxy.restore()
        servers.wait_until(lambda: Outcome.COMPLETED_LATE in shop.heard, "the answer is kept in the background")
        assert shop.post(idempotency_key) == (201, True)
        assert shop.runs[idempotency_key] == 1
        assert len(proxy.struck) > TRIES


class TestALostReleaseTellsNobodyThatHeWasFenced:
    def test_a_release_whose_reply_was_lost_has_released(self, store: RedisStore, proxy: Proxy) -> None:
        claimed = store.claim(new_record(), FINGERPRINT, lease=60, retention=DAY)
        assert isinstance(claimed, Claimed)
        proxy.fail_next(Trouble.LOSE_REPLY, matching=of(RELEASE))
        assert store.release(claimed.claim) is True

    def test_a_second_release_finds_nothing_to_give_back(self, store: RedisStore) -> None:
        claimed = store.claim(new_record(), FINGERPRINT, lease=60, retention=DAY)
        assert isinstance(claimed, Claimed)
        assert store.release(claimed.claim) is True
        assert store.release(claimed.claim) is False


class TestAClaimThatNobodyHeardOf:
    """It stands on the server, though the request that made it was refused."""

    def unheard(self, store: RedisStore, proxy: Proxy) -> RecordKey:
        record = new_record()
        proxy.fail_next(Trouble.LOSE_REPLY, matching=of(CLAIM), times=TRIES)
        with pytest.raises(StoreUnavailable):
            store.claim(record, FINGERPRINT, lease=600, retention=DAY, take_over=False)
        return record

    def test_it_is_this_processes_own_when_the_client_asks_again(self, store: RedisStore, proxy: Proxy) -> None:
        record = self.unheard(store, proxy)
        outcome = store.claim(record, b"another payload.", lease=600, retention=DAY, take_over=False)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (1, False)
        assert store.complete(outcome.claim, RESPONSE, retention=DAY) is True

    def test_of_two_that_ask_again_one_runs(self, store: RedisStore, proxy: Proxy) -> None:
        record = self.unheard(store, proxy)
        outcomes = [store.claim(record, FINGERPRINT, lease=600, retention=DAY, take_over=False) for _ in range(2)]
        assert [type(outcome) for outcome in outcomes] == [Claimed, InProgress]

    def test_it_is_given_back_with_the_next_heartbeat(
        self, store: RedisStore, proxy: Proxy, valkey: servers.Server
    ) -> None:
        record = self.unheard(store, proxy)
        elsewhere = RedisStore.from_url(valkey.url)
        assert isinstance(elsewhere.claim(record, FINGERPRINT, lease=600, retention=DAY), InProgress)
        store.renew([], lease=600)
        outcome = elsewhere.claim(record, FINGERPRINT, lease=600, retention=DAY)
        assert isinstance(outcome, Claimed)
        assert not outcome.lapsed

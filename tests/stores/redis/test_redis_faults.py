"""A server that answers late, twice or not at all: what the client hears, and how often the work runs."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from select import select
from typing import ClassVar

import pytest

from flask_idempotency.engine.events import Outcome
from flask_idempotency.engine.records import Claim, Claimed, Completed, InProgress, Lapsed, RecordKey
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import redis_direct, redis_server
from flask_idempotency.stores.redis import RedisStore
from flask_idempotency.stores.redis_scripts import (
    ABANDON,
    ANSWERING,
    BEGIN_STEP,
    CLAIM,
    COMPLETE,
    DROP_STEP,
    GIVE_BACK,
    KEEP_STEP,
    LOAD_STEPS,
    RELEASE,
    RENEW,
    RESOLVE,
    Script,
)
from flask_idempotency.testing.contract import DAY, FINGERPRINT, OTHER_FINGERPRINT, RESPONSE, new_record
from tests.proxies import Proxy, Trouble

from . import servers
from .calls import claim, must_claim
from .shop import Shop

SCRIPTS = (
    ABANDON,
    ANSWERING,
    BEGIN_STEP,
    CLAIM,
    COMPLETE,
    DROP_STEP,
    GIVE_BACK,
    KEEP_STEP,
    LOAD_STEPS,
    RELEASE,
    RENEW,
    RESOLVE,
)

#: A call of the store is tried so many times.
TRIES = 3

every_trouble = pytest.mark.parametrize("trouble", list(Trouble), ids=[trouble.name for trouble in Trouble])


def of(script: Script) -> bytes:
    """What marks the requests that run `script`."""
    return script.digest


@pytest.fixture
def store(proxy: Proxy, valkey: servers.Server) -> Iterator[RedisStore]:
    """A store behind a network that fails; its scripts are known to the server, and its connection stands."""
    store = RedisStore.from_url(f"redis://{proxy.host}:{proxy.port}?socket_timeout=0.2&socket_connect_timeout=0.2")
    with valkey.client() as client:
        for script in SCRIPTS:
            client.script_load(script.text)
    must_claim(store, lease=1, retention=1)
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
        held = must_claim(store, record, lease=2)
        proxy.fail_next(trouble, matching=of(RENEW))
        assert store.renew([held], lease=600) == set()
        proxy.settle()
        standing = claim(store, record)
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

    def test_connections_that_were_reset_are_opened_again(
        self, store: RedisStore, proxy: Proxy, idempotency_key: str
    ) -> None:
        shop = Shop(store)
        assert shop.post(idempotency_key) == (201, False)
        proxy.drop()
        assert shop.post(idempotency_key) == (201, True)

    def test_one_that_was_reset_while_it_lay_idle_is_seen_before_it_is_used(
        self, store: RedisStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_server, "_PAUSES", (None,))  # the first try is the last
        must_claim(store)
        proxy.drop()
        with pytest.raises(StoreUnavailable):
            claim(store)
        must_claim(store)
        proxy.drop()
        route = store._server._route
        assert isinstance(route, redis_direct.DirectRoute)
        ((idle, _),) = route._at_hand
        assert select([idle._sock], [], [], servers.PATIENCE)[0]  # the reset has come
        monkeypatch.setattr(redis_direct, "_STANDS", 0.0)
        must_claim(store)

    def test_of_many_that_were_reset_one_request_hears_of_it(
        self, store: RedisStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_server, "_PAUSES", (None,))
        together = threading.Barrier(8)

        def ask(_: int) -> None:
            together.wait(servers.PATIENCE)
            must_claim(store)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(ask, range(8)))
        proxy.drop()
        with pytest.raises(StoreUnavailable):
            claim(store)
        for _ in range(8):
            must_claim(store)

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
            assert isinstance(claim(elsewhere, RecordKey(record_id), OTHER_FINGERPRINT), InProgress)
            servers.pause()
        proxy.restore()
        servers.wait_until(lambda: Outcome.COMPLETED_LATE in shop.heard, "the answer is kept in the background")
        assert shop.post(idempotency_key) == (201, True)
        assert shop.runs[idempotency_key] == 1
        assert len(proxy.struck) > TRIES


class TestEachWriteUnderAClaim:
    """Sent again since its reply was lost, it recognises itself: nobody is told that he was fenced."""

    WRITES: ClassVar[dict[str, tuple[Script, Callable[[RedisStore, Claim], bool]]]] = {
        "answering": (ANSWERING, lambda store, held: store.answering(held, lease=60)),
        "complete": (COMPLETE, lambda store, held: store.complete(held, RESPONSE, retention=DAY)),
        "release": (RELEASE, lambda store, held: store.release(held, retention=DAY)),
        "abandon": (ABANDON, lambda store, held: store.abandon(held)),
        "renew": (RENEW, lambda store, held: store.renew([held], lease=60) == set()),
        "begin a step": (BEGIN_STEP, lambda store, held: store.keep_step(held, "charge", None, retention=DAY)),
        "keep a step": (KEEP_STEP, lambda store, held: store.keep_step(held, "charge", b"paid", retention=DAY)),
        "drop a step": (DROP_STEP, lambda store, held: store.drop_step(held, "charge")),
    }

    @pytest.mark.parametrize("name", WRITES)
    @every_trouble
    def test_it_is_done_once(self, store: RedisStore, proxy: Proxy, trouble: Trouble, name: str) -> None:
        script, write = self.WRITES[name]
        held = must_claim(store)
        proxy.fail_next(trouble, matching=of(script))
        assert write(store, held) is True
        assert len(proxy.struck) == 1

    @every_trouble
    def test_so_does_what_a_person_resolved(self, store: RedisStore, proxy: Proxy, trouble: Trouble) -> None:
        held = must_claim(store)
        store.abandon(held)
        proxy.fail_next(trouble, matching=of(RESOLVE))
        assert store.resolve(held.record.id, done=True, retention=DAY) is True
        assert len(proxy.struck) == 1
        proxy.settle()
        assert store.resolve(held.record.id, done=True, retention=DAY) is False

    @every_trouble
    def test_what_steps_kept_is_read_all_the_same(self, store: RedisStore, proxy: Proxy, trouble: Trouble) -> None:
        held = must_claim(store)
        store.keep_step(held, "charge", b"paid", retention=DAY)
        proxy.fail_next(trouble, matching=of(LOAD_STEPS))
        assert store.load_steps(held) == {"charge": b"paid"}
        assert len(proxy.struck) == 1


class TestAClaimThatNobodyHeardOf:
    """It stands on the server, though the request that made it was refused."""

    def unheard(self, store: RedisStore, proxy: Proxy, record: RecordKey, *, take_over: bool = False) -> None:
        proxy.fail_next(Trouble.LOSE_REPLY, matching=of(CLAIM), times=TRIES)
        with pytest.raises(StoreUnavailable):
            claim(store, record, lease=600, take_over=take_over)

    def test_it_is_this_processes_own_when_the_client_asks_again(self, store: RedisStore, proxy: Proxy) -> None:
        self.unheard(store, proxy, record := new_record())
        outcome = claim(store, record, take_over=False)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (1, False)
        assert store.complete(outcome.claim, RESPONSE, retention=DAY) is True

    def test_it_is_undone_first_when_the_client_asks_for_something_else(self, store: RedisStore, proxy: Proxy) -> None:
        self.unheard(store, proxy, record := new_record())
        proxy.fail_next(Trouble.LOSE_REQUEST, matching=of(GIVE_BACK), times=TRIES)
        with pytest.raises(StoreUnavailable):
            claim(store, record, OTHER_FINGERPRINT, take_over=False)
        outcome = claim(store, record, OTHER_FINGERPRINT, take_over=False)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (1, False)
        assert store.complete(outcome.claim, RESPONSE, retention=DAY) is True
        assert claim(store, record) == Completed(OTHER_FINGERPRINT, RESPONSE)

    def test_of_two_that_ask_again_one_runs(self, store: RedisStore, proxy: Proxy) -> None:
        self.unheard(store, proxy, record := new_record())
        outcomes = [claim(store, record, take_over=False) for _ in range(2)]
        assert [type(outcome) for outcome in outcomes] == [Claimed, InProgress]

    def test_it_is_given_back_with_the_next_heartbeat(
        self, store: RedisStore, proxy: Proxy, valkey: servers.Server
    ) -> None:
        self.unheard(store, proxy, record := new_record())
        elsewhere = RedisStore.from_url(valkey.url)
        assert isinstance(claim(elsewhere, record), InProgress)
        proxy.fail_next(Trouble.LOSE_REQUEST, matching=of(GIVE_BACK), times=TRIES)
        with pytest.raises(StoreUnavailable):
            store.renew([], lease=600)
        store.renew([], lease=600)
        outcome = claim(elsewhere, record)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (1, False)

    def test_one_that_had_been_given_back_before_is_so_again(
        self, store: RedisStore, proxy: Proxy, valkey: servers.Server
    ) -> None:
        held = must_claim(store)
        store.keep_step(held, "charge", b"paid", retention=DAY)
        store.release(held, retention=DAY)
        self.unheard(store, proxy, held.record)
        store.renew([], lease=600)
        assert claim(store, held.record, OTHER_FINGERPRINT) == Lapsed(FINGERPRINT)
        outcome = claim(store, held.record)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (2, False)

    def test_one_that_was_taken_over_lapses_again(self, store: RedisStore, proxy: Proxy) -> None:
        """What the holder before did, nobody knows."""
        held = must_claim(store, lease=0.001)
        servers.wait_until(lambda: claim(store, held.record, take_over=False) == Lapsed(FINGERPRINT), "it lapses")
        self.unheard(store, proxy, held.record, take_over=True)
        store.renew([], lease=600)
        assert claim(store, held.record, OTHER_FINGERPRINT) == Lapsed(FINGERPRINT)
        assert claim(store, held.record, take_over=False) == Lapsed(FINGERPRINT)
        outcome = claim(store, held.record)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (2, True)

    def test_one_that_was_taken_over_is_known_as_such_when_the_client_asks_again(
        self, store: RedisStore, proxy: Proxy
    ) -> None:
        held = must_claim(store, lease=0.001)
        servers.wait_until(lambda: claim(store, held.record, take_over=False) == Lapsed(FINGERPRINT), "it lapses")
        self.unheard(store, proxy, held.record, take_over=True)
        outcome = claim(store, held.record)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (2, True)

"""A master dies and its replica takes over: what survives, and what does not unless it was waited for."""

from collections.abc import Callable, Iterator

import pytest

from flask_idempotency.engine.events import Outcome
from flask_idempotency.engine.records import Claim, Claimed, Completed, InProgress
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores.redis import RedisStore
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE, new_record

from . import servers
from .calls import claim, must_claim
from .lagging import Lagging, running_pair
from .shop import Shop


def test_sentinel_names_another_master_and_the_store_follows() -> None:
    with servers.pair(patience=500) as pair:
        store = RedisStore.from_url(pair.url, min_replicas=1)
        done, running = new_record(), new_record()
        held = must_claim(store, running, take_over=False)
        assert store.complete(must_claim(store, done), RESPONSE, retention=DAY) is True
        pair.master.kill()
        with pytest.raises(StoreUnavailable):
            claim(store)
        servers.wait_until(lambda: answers(store), "the replica takes over")
        assert claim(store, done) == Completed(FINGERPRINT, RESPONSE)
        assert isinstance(claim(store, running), InProgress)
        # Its completion has no replica to wait for now: it stands, and says that it is not safe.
        with pytest.raises(StoreUnavailable, match="min_replicas"):
            store.complete(held, RESPONSE, retention=DAY)
        assert claim(store, running) == Completed(FINGERPRINT, RESPONSE)


def answers(store: RedisStore) -> bool:
    try:
        claim(store)
    except StoreUnavailable:
        return False
    return True


def test_what_the_replica_did_not_have_when_the_master_died_is_lost() -> None:
    with running_pair() as pair:
        store = pair.open_store()
        half, lost = new_record(), new_record()
        holder_of_half = must_claim(store, half, lease=0.001)
        servers.wait_until(lambda: known_to(pair.replica) == 1, "the replica has the claim")
        pair.wire.stall()
        assert store.complete(holder_of_half, RESPONSE, retention=DAY) is True
        holder_of_lost = must_claim(store, lost)
        pair.fail_over()
        # A completion that nobody waited for: a retry runs again, and is told that somebody was here before.
        again = claim(store, half)
        assert isinstance(again, Claimed)
        assert again.lapsed
        # A claim: a retry runs as if it were the first, and the holder is fenced.
        again = claim(store, lost)
        assert isinstance(again, Claimed)
        assert not again.lapsed
        assert store.complete(holder_of_lost, RESPONSE, retention=DAY) is False


@pytest.fixture(scope="class")
def lagging() -> Iterator[Lagging]:
    with running_pair() as pair:
        yield pair


class TestAReplicaThatLagsBehind:
    @pytest.fixture
    def pair(self, lagging: Lagging) -> Iterator[Lagging]:
        yield lagging
        lagging.wire.restore()

    def test_a_completion_that_replicas_do_not_have_is_not_done(self, pair: Lagging) -> None:
        store = pair.open_store("?min_replicas=1&replica_timeout=0.3")
        record = new_record()
        held = must_claim(store, record)
        pair.wire.stall()
        with pytest.raises(StoreUnavailable, match="of the 1 replicas that min_replicas asks for, 0"):
            store.complete(held, RESPONSE, retention=DAY)
        assert claim(store, record) == Completed(FINGERPRINT, RESPONSE)
        pair.wire.restore()
        assert store.complete(held, RESPONSE, retention=DAY) is True

    @pytest.mark.parametrize("durable", [{"take_over": False}, {"durable": True}], ids=["no takeover", "durable"])
    def test_a_claim_that_must_survive_waits_for_replicas_too(self, pair: Lagging, durable: dict[str, bool]) -> None:
        store = pair.open_store("?min_replicas=1&replica_timeout=0.3")
        record = new_record()
        pair.wire.stall()
        with pytest.raises(StoreUnavailable):
            claim(store, record, **durable)
        assert isinstance(claim(store, new_record()), Claimed)
        pair.wire.restore()
        outcome = claim(store, record, **durable)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (1, False)

    @pytest.mark.parametrize(
        "write",
        [
            lambda store, held: store.answering(held, lease=60),
            lambda store, held: store.keep_step(held, "charge", None, retention=DAY),
            lambda store, held: store.keep_step(held, "charge", b"paid", retention=DAY),
            lambda store, held: store.abandon(held),
        ],
        ids=["answering", "step begun", "step kept", "abandoned"],
    )
    def test_so_does_every_other_write_that_must_survive(
        self, pair: Lagging, write: Callable[[RedisStore, Claim], bool]
    ) -> None:
        store = pair.open_store("?min_replicas=1&replica_timeout=0.3")
        held = must_claim(store)
        pair.wire.stall()
        with pytest.raises(StoreUnavailable, match="of the 1 replicas that min_replicas asks for, 0"):
            write(store, held)
        pair.wire.restore()
        assert write(store, held) is True

    def test_so_does_what_a_person_resolves(self, pair: Lagging) -> None:
        store = pair.open_store("?min_replicas=1&replica_timeout=0.3")
        held = must_claim(store)
        assert store.abandon(held) is True
        pair.wire.stall()
        with pytest.raises(StoreUnavailable, match="of the 1 replicas that min_replicas asks for, 0"):
            store.resolve(held.record.id, done=True, retention=DAY)
        assert claim(store, held.record) == Completed(FINGERPRINT, None)

    def test_what_is_no_write_does_not_wait_for_replicas_to_be_believed(self, pair: Lagging) -> None:
        store = pair.open_store("?min_replicas=1&replica_timeout=0.3")
        done = new_record()
        held = must_claim(store, done)
        assert store.complete(held, RESPONSE, retention=DAY) is True
        pair.replica.kill()
        assert claim(store, done, take_over=False) == Completed(FINGERPRINT, RESPONSE)
        pair.replica.start()
        servers.follow(pair.replica, pair.master, pair.wire.port)

    def test_the_client_hears_the_answer_which_is_completed_again_until_replicas_have_it(self, pair: Lagging) -> None:
        shop = Shop(pair.open_store("?min_replicas=1&replica_timeout=0.3"))
        pair.wire.stall()
        assert shop.post("k") == (201, False)
        assert Outcome.DEFERRED in shop.heard
        # The process that owes the answer does not repeat it before it is safe.
        assert shop.post("k") == (409, False)
        assert Outcome.COMPLETED_LATE not in shop.heard
        pair.wire.restore()
        servers.wait_until(lambda: Outcome.COMPLETED_LATE in shop.heard, "the replica has the answer")
        assert shop.post("k") == (201, True)
        assert shop.runs["k"] == 1


def known_to(server: servers.Server) -> int:
    """How many records it has."""
    with server.client() as client:
        return len(client.keys("idempotency:*"))

"""The contract on time: how long a record is kept, and what a purge may take."""

from collections.abc import Callable

import pytest

from ...engine.records import Claimed, Completed, InProgress, Lapsed, RecordKey
from ...engine.store import Store
from .frame import DAY, FINGERPRINT, OTHER_FINGERPRINT, RESPONSE, StoreContractFrame, new_record


class LifetimesContract(StoreContractFrame):
    """A completed record lives for its retention; one that is not, no shorter than its claim."""

    def free(self, store: Store, record: RecordKey) -> None:
        """Nothing is left of the record."""
        outcome = self.claim(store, record, OTHER_FINGERPRINT)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (1, False)

    def test_a_record_is_free_for_any_payload_once_its_retention_is_over(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        claim = self.must_claim(store, record)
        store.complete(claim, RESPONSE, retention=self.short)
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)
        end_leases()
        self.free(store, record)
        assert store.complete(claim, RESPONSE, retention=DAY) is False

    def test_retention_counts_from_the_completion(
        self, store: Store, record: RecordKey, pass_time: Callable[[float], None]
    ) -> None:
        claim = self.must_claim(store, record, lease=60.0, retention=self.short)
        pass_time(self.short * 1.1)
        assert store.complete(claim, RESPONSE, retention=self.short) is True
        pass_time(self.short * 0.3)
        store.purge(limit=1000)
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    def test_a_replay_prolongs_nothing(
        self, store: Store, record: RecordKey, pass_time: Callable[[float], None]
    ) -> None:
        store.complete(self.must_claim(store, record), RESPONSE, retention=self.short)
        pass_time(self.short * 0.5)
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)
        pass_time(self.short * 0.6)
        self.free(store, record)

    def test_a_released_record_is_forgotten_after_its_retention(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        store.release(self.must_claim(store, record, take_over=False), retention=self.short)
        end_leases()
        self.free(store, record)

    def test_a_handler_longer_than_its_retention_is_still_kept(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        claim = self.must_claim(store, record, lease=self.short, retention=self.short)
        store.renew([claim], lease=60.0)
        end_leases()
        store.purge(limit=1000)
        assert isinstance(self.claim(store, record, OTHER_FINGERPRINT), InProgress)
        assert store.complete(claim, RESPONSE, retention=DAY) is True
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    @pytest.mark.parametrize("purged", [True, False], ids=["purged", "not purged"])
    def test_one_whose_record_is_over_completes_it_unless_another_holds_it(
        self, store: Store, end_leases: Callable[[], None], purged: bool
    ) -> None:
        lost, taken, another = new_record(), new_record(), new_record()
        claims = {each: self.must_claim(store, each, lease=self.short, retention=self.short) for each in (lost, taken)}
        theirs = self.must_claim(store, another, lease=self.short, retention=self.short)
        end_leases()
        if purged:
            store.purge(limit=1000)
        self.must_claim(store, taken, OTHER_FINGERPRINT)
        assert store.complete(claims[lost], RESPONSE, retention=DAY) is True
        assert self.claim(store, lost) == Completed(FINGERPRINT, RESPONSE)
        assert store.complete(claims[taken], RESPONSE, retention=DAY) is False
        # What is over is gone, whoever left it.
        assert store.complete(self.strangers(theirs), RESPONSE, retention=DAY) is True
        assert self.claim(store, another) == Completed(FINGERPRINT, RESPONSE)

    def test_a_claim_outlives_a_retention_shorter_than_its_lease(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        self.must_claim(store, record, lease=60.0, retention=self.short)
        end_leases()
        store.purge(limit=1000)
        assert isinstance(self.claim(store, record, OTHER_FINGERPRINT), InProgress)

    def test_a_lapsed_claim_lives_for_as_long_as_its_retention(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        self.must_claim(store, record, lease=self.short, retention=DAY)
        end_leases()
        store.purge(limit=1000)
        assert self.claim(store, record, OTHER_FINGERPRINT) == Lapsed(FINGERPRINT)

    def test_a_claim_whose_lease_and_retention_are_over_is_gone(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        released = self.must_claim(store, record, lease=self.short, retention=self.short)
        renewed = self.must_claim(store, new_record(), lease=self.short, retention=self.short)
        end_leases()
        assert store.release(self.strangers(released), retention=DAY) is True
        assert store.renew([self.strangers(renewed)], lease=60.0) == set()

    def test_a_purge_takes_what_is_over_and_leaves_the_rest(self, store: Store, end_leases: Callable[[], None]) -> None:
        kept, held, over = new_record(), new_record(), new_record()
        store.complete(self.must_claim(store, kept), RESPONSE, retention=DAY)
        self.must_claim(store, held, lease=60.0)
        store.complete(self.must_claim(store, over), RESPONSE, retention=self.short)
        end_leases()
        store.purge(limit=1000)
        assert self.claim(store, kept) == Completed(FINGERPRINT, RESPONSE)
        assert isinstance(self.claim(store, held), InProgress)
        self.free(store, over)

    def test_a_purge_takes_no_more_than_its_limit(self, store: Store, end_leases: Callable[[], None]) -> None:
        for _ in range(5):
            store.complete(self.must_claim(store, new_record()), RESPONSE, retention=self.short)
        end_leases()
        purged = [store.purge(limit=2) for _ in range(4)]
        assert all(count <= 2 for count in purged)
        assert purged[-1] == 0

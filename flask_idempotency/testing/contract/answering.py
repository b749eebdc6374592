"""The contract on streamed responses: from before their first byte, nobody runs the request again."""

from collections.abc import Callable

import pytest

from ...engine.records import Claim, Completed, InProgress, RecordKey
from ...engine.store import Store
from .frame import DAY, FINGERPRINT, OTHER_FINGERPRINT, RESPONSE, StoreContractFrame


class AnsweringContract(StoreContractFrame):
    """In progress while its lease goes on, and done once it ends."""

    def test_an_answering_record_is_in_progress_until_it_is_completed(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        assert store.answering(claim, lease=60.0) is True
        assert store.answering(claim, lease=60.0) is True
        assert isinstance(self.claim(store, record), InProgress)
        assert store.complete(claim, RESPONSE, retention=DAY) is True
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    @pytest.mark.parametrize("take_over", [True, False])
    def test_one_whose_lease_ended_is_done_and_its_holder_may_still_say_what_was_answered(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None], take_over: bool
    ) -> None:
        claim = self.must_claim(store, record, take_over=take_over)
        store.answering(claim, lease=self.short)
        end_leases()
        for fingerprint in (FINGERPRINT, OTHER_FINGERPRINT):
            assert self.claim(store, record, fingerprint, take_over=take_over) == Completed(FINGERPRINT, None)
        assert store.release(claim, retention=DAY) is False
        assert store.resolve(record.id, done=False, retention=DAY) is False
        assert store.complete(claim, RESPONSE, retention=DAY) is True
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    def test_one_that_is_renewed_stays_in_progress(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        claim = self.must_claim(store, record)
        store.answering(claim, lease=self.short)
        assert store.renew([claim], lease=60.0) == set()
        end_leases()
        assert isinstance(self.claim(store, record), InProgress)

    def test_one_that_was_answering_for_longer_than_its_retention_is_done_all_the_same(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        """Its retention counts from its completion, which is when its lease ended."""
        claim = self.must_claim(store, record, lease=self.short, retention=self.short)
        store.answering(claim, lease=self.short)
        end_leases()
        store.purge(limit=1000)
        assert self.claim(store, record, OTHER_FINGERPRINT) == Completed(FINGERPRINT, None)

    def test_one_that_was_renewed_for_longer_than_its_retention_is_done_all_the_same(
        self, store: Store, record: RecordKey, pass_time: Callable[[float], None]
    ) -> None:
        claim = self.must_claim(store, record, lease=self.short, retention=self.short)
        store.answering(claim, lease=self.short)
        assert store.renew([claim], lease=self.short * 2) == set()
        pass_time(self.short * 2.2)
        store.purge(limit=1000)
        assert self.claim(store, record, OTHER_FINGERPRINT) == Completed(FINGERPRINT, None)

    def test_what_the_same_claim_has_completed_stays_as_it_is(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.complete(claim, RESPONSE, retention=DAY)
        assert store.answering(claim, lease=60.0) is True
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    def test_a_stranger_is_fenced(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        assert store.answering(self.strangers(claim), lease=60.0) is False
        store.complete(claim, RESPONSE, retention=DAY)
        assert store.answering(self.strangers(claim), lease=60.0) is False

    def test_a_record_that_is_gone_is_not_fenced(self, store: Store, record: RecordKey) -> None:
        claim = Claim(record, FINGERPRINT, b"t" * 16)
        assert store.answering(claim, lease=60.0) is True
        assert isinstance(self.claim(store, record), InProgress)

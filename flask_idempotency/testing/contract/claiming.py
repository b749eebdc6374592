"""The contract on claims: who may run, and what everybody else is told."""

import pytest

from ...engine.records import Claimed, Completed, InProgress, RecordKey
from ...engine.store import Store
from .frame import DAY, FINGERPRINT, OTHER_FINGERPRINT, RESPONSE, StoreContractFrame, new_record


class ClaimingContract(StoreContractFrame):
    """One holder at a time."""

    @pytest.mark.parametrize("take_over", [True, False])
    @pytest.mark.parametrize("durable", [True, False])
    def test_a_free_record_is_claimed_as_the_first_attempt(
        self, store: Store, record: RecordKey, take_over: bool, durable: bool
    ) -> None:
        outcome = self.claim(store, record, take_over=take_over, durable=durable)
        assert isinstance(outcome, Claimed)
        assert (outcome.claim.record, outcome.claim.fingerprint) == (record, FINGERPRINT)
        assert (outcome.number, outcome.lapsed) == (1, False)

    def test_tokens_are_never_the_same(self, store: Store) -> None:
        tokens = {self.must_claim(store, new_record()).token for _ in range(20)}
        assert len(tokens) == 20

    def test_a_claimed_record_is_in_progress_for_everybody_else(self, store: Store, record: RecordKey) -> None:
        begun = self.now()
        self.must_claim(store, record, lease=60.0)
        for take_over in (True, False):
            outcome = self.claim(store, record, take_over=take_over)
            assert isinstance(outcome, InProgress)
            assert outcome.fingerprint == FINGERPRINT
            assert -0.5 <= outcome.started - begun <= self.now() - begun + 0.5
            assert 0 < outcome.lease_ends - outcome.started <= 60.5

    def test_another_fingerprint_hears_of_the_first(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        in_progress = self.claim(store, record, OTHER_FINGERPRINT)
        assert isinstance(in_progress, InProgress)
        assert in_progress.fingerprint == FINGERPRINT
        store.complete(claim, RESPONSE, retention=DAY)
        assert self.claim(store, record, OTHER_FINGERPRINT) == Completed(FINGERPRINT, RESPONSE)

    def test_records_do_not_touch_each_other(self, store: Store, record: RecordKey) -> None:
        self.must_claim(store, record)
        self.must_claim(store, new_record())

    def test_what_one_process_writes_another_reads(self, store: Store, record: RecordKey) -> None:
        other = self.open_store()
        claim = self.must_claim(store, record)
        assert isinstance(self.claim(other, record), InProgress)
        store.complete(claim, RESPONSE, retention=DAY)
        assert self.claim(other, record) == Completed(FINGERPRINT, RESPONSE)
        if other is not store:
            other.close()

    def test_a_closed_store_opens_again(self, store: Store, record: RecordKey) -> None:
        store.close()
        assert isinstance(self.claim(store, record), Claimed)

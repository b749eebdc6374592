"""The contract on releases: the key is given back, and what was known of it stays."""

import pytest

from ...engine.records import Claim, Claimed, Completed, InProgress, RecordKey, StoredResponse
from ...engine.store import Store
from .frame import DAY, FINGERPRINT, OTHER_FINGERPRINT, RESPONSE, StoreContractFrame


class ReleasingContract(StoreContractFrame):
    """The next request runs afresh, and can tell that it is not the first."""

    @pytest.mark.parametrize("fingerprint", [FINGERPRINT, OTHER_FINGERPRINT], ids=["same", "another"])
    @pytest.mark.parametrize("take_over", [True, False])
    def test_a_released_record_is_free_for_any_payload_and_counts_on(
        self, store: Store, record: RecordKey, fingerprint: bytes, take_over: bool
    ) -> None:
        assert store.release(self.must_claim(store, record, take_over=take_over), retention=DAY) is True
        for number in (2, 3):
            outcome = self.claim(store, record, fingerprint, take_over=take_over)
            assert isinstance(outcome, Claimed)
            assert outcome.claim.fingerprint == fingerprint
            assert (outcome.number, outcome.lapsed) == (number, False)
            assert store.release(outcome.claim, retention=DAY) is True

    def test_one_who_mended_the_request_is_the_holder_in_every_respect(self, store: Store, record: RecordKey) -> None:
        store.release(self.must_claim(store, record), retention=DAY)
        mended = self.must_claim(store, record, OTHER_FINGERPRINT)
        in_progress = self.claim(store, record)
        assert isinstance(in_progress, InProgress)
        assert in_progress.fingerprint == OTHER_FINGERPRINT
        assert store.complete(mended, RESPONSE, retention=DAY) is True
        assert self.claim(store, record) == Completed(OTHER_FINGERPRINT, RESPONSE)

    def test_a_release_sent_again_recognises_itself(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        assert store.release(claim, retention=DAY) is True
        assert store.release(claim, retention=DAY) is True
        outcome = self.claim(store, record)
        assert isinstance(outcome, Claimed)
        assert outcome.number == 2

    def test_a_release_that_comes_late_does_not_touch_the_next_holder(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.release(claim, retention=DAY)
        self.must_claim(store, record)
        assert store.release(claim, retention=DAY) is False
        assert isinstance(self.claim(store, record), InProgress)

    def test_a_record_that_is_gone_is_not_fenced(self, store: Store, record: RecordKey) -> None:
        assert store.release(Claim(record, FINGERPRINT, b"t" * 16), retention=DAY) is True
        assert isinstance(self.claim(store, record), Claimed)

    def test_a_stranger_cannot_release(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        assert store.release(self.strangers(claim), retention=DAY) is False
        assert isinstance(self.claim(store, record), InProgress)

    @pytest.mark.parametrize("response", [RESPONSE, None], ids=["response", "tombstone"])
    def test_a_completed_record_cannot_be_released(
        self, store: Store, record: RecordKey, response: StoredResponse | None
    ) -> None:
        claim = self.must_claim(store, record)
        store.complete(claim, response, retention=DAY)
        assert store.release(claim, retention=DAY) is False
        assert self.claim(store, record) == Completed(FINGERPRINT, response)

    def test_a_released_claim_can_neither_answer_nor_complete(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.release(claim, retention=DAY)
        assert store.answering(claim, lease=60.0) is False
        assert store.complete(claim, RESPONSE, retention=DAY) is False
        assert isinstance(self.claim(store, record), Claimed)

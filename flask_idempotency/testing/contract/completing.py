"""The contract on completions: what is kept, for whom it counts, and what a repeat of one does."""

import pytest

from ...engine.records import Claim, Completed, InProgress, RecordKey, StoredResponse
from ...engine.store import Store
from .frame import DAY, FINGERPRINT, OTHER_FINGERPRINT, RESPONSE, StoreContractFrame


class CompletingContract(StoreContractFrame):
    """The answer is kept to the byte, once, by the holder."""

    def test_a_completed_record_gives_back_the_response_to_the_byte(self, store: Store, record: RecordKey) -> None:
        assert store.complete(self.must_claim(store, record), RESPONSE, retention=DAY) is True
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    @pytest.mark.parametrize("take_over", [True, False])
    def test_every_repeat_hears_the_same(self, store: Store, record: RecordKey, take_over: bool) -> None:
        store.complete(self.must_claim(store, record, take_over=take_over), RESPONSE, retention=DAY)
        for _ in range(3):
            assert self.claim(store, record, take_over=take_over) == Completed(FINGERPRINT, RESPONSE)

    @pytest.mark.parametrize("body", [b"", b"\x00", b"x" * 1024 * 1024], ids=["empty", "NUL", "1 MiB"])
    def test_a_body_of_any_size_is_kept(self, store: Store, record: RecordKey, body: bytes) -> None:
        response = StoredResponse("200 OK", (), body)
        store.complete(self.must_claim(store, record), response, retention=DAY)
        assert self.claim(store, record) == Completed(FINGERPRINT, response)

    def test_a_tombstone_says_done_and_nothing_more(self, store: Store, record: RecordKey) -> None:
        assert store.complete(self.must_claim(store, record), None, retention=DAY) is True
        assert self.claim(store, record) == Completed(FINGERPRINT, None)
        assert self.claim(store, record, take_over=False) == Completed(FINGERPRINT, None)

    def test_a_completion_sent_again_recognises_itself(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        assert store.complete(claim, RESPONSE, retention=DAY) is True
        assert store.complete(claim, RESPONSE, retention=DAY) is True
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    def test_a_tombstone_becomes_the_response(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.complete(claim, None, retention=DAY)
        assert store.complete(claim, RESPONSE, retention=DAY) is True
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    def test_a_tombstone_that_comes_late_does_not_erase_the_response(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.complete(claim, RESPONSE, retention=DAY)
        assert store.complete(claim, None, retention=DAY) is True
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    def test_a_stranger_is_fenced_and_changes_nothing(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        assert store.complete(self.strangers(claim), None, retention=DAY) is False
        assert isinstance(self.claim(store, record), InProgress)
        assert store.complete(claim, RESPONSE, retention=DAY) is True
        assert store.complete(self.strangers(claim), None, retention=DAY) is False
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    @pytest.mark.parametrize("response", [RESPONSE, None], ids=["response", "tombstone"])
    def test_a_record_that_is_gone_altogether_is_inserted_anew(
        self, store: Store, record: RecordKey, response: StoredResponse | None
    ) -> None:
        claim = Claim(record, FINGERPRINT, b"t" * 16)  # as if it had been, and were lost
        assert store.complete(claim, response, retention=DAY) is True
        assert self.claim(store, record, OTHER_FINGERPRINT) == Completed(FINGERPRINT, response)
        assert store.complete(claim, response, retention=DAY) is True
        assert store.complete(self.strangers(claim), None, retention=DAY) is False
        assert self.claim(store, record) == Completed(FINGERPRINT, response)

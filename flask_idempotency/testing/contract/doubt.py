"""The contract on outcomes that nobody knows: they stand until a person resolves them."""

from collections.abc import Callable

import pytest

from ...engine.records import Claim, Claimed, Completed, InProgress, Lapsed, RecordKey, StoredResponse
from ...engine.store import Store
from .frame import DAY, FINGERPRINT, OTHER_FINGERPRINT, RESPONSE, StoreContractFrame


class DoubtContract(StoreContractFrame):
    """Abandoned or lapsed, a record has no expiry until its outcome is known."""

    @pytest.mark.parametrize("take_over", [True, False])
    def test_an_abandoned_record_runs_for_nobody(self, store: Store, record: RecordKey, take_over: bool) -> None:
        claim = self.must_claim(store, record, take_over=take_over)
        assert store.abandon(claim) is True
        assert store.abandon(claim) is True
        for fingerprint in (FINGERPRINT, OTHER_FINGERPRINT):
            assert self.claim(store, record, fingerprint) == Lapsed(FINGERPRINT)
            assert self.claim(store, record, fingerprint, take_over=False) == Lapsed(FINGERPRINT)

    def test_an_abandoned_record_has_no_expiry(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        store.abandon(self.must_claim(store, record, lease=self.short, retention=self.short))
        end_leases()
        store.purge(limit=1000)
        assert self.claim(store, record) == Lapsed(FINGERPRINT)

    def test_a_claim_that_may_not_be_taken_over_has_no_expiry(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        claim = self.must_claim(store, record, lease=self.short, retention=self.short, take_over=False)
        store.renew([claim], lease=self.short)
        end_leases()
        store.purge(limit=1000)
        assert self.claim(store, record, OTHER_FINGERPRINT, take_over=False) == Lapsed(FINGERPRINT)
        assert self.claim(store, record, take_over=False) == Lapsed(FINGERPRINT)

    def test_a_renewal_does_not_revive_what_was_abandoned(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.abandon(claim)
        store.renew([claim], lease=60.0)
        assert self.claim(store, record) == Lapsed(FINGERPRINT)

    def test_its_holder_may_still_say_what_became_of_it(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.abandon(claim)
        assert store.complete(self.strangers(claim), None, retention=DAY) is False
        assert store.complete(claim, RESPONSE, retention=DAY) is True
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    def test_a_stranger_cannot_abandon(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        assert store.abandon(self.strangers(claim)) is False
        assert isinstance(self.claim(store, record), InProgress)

    @pytest.mark.parametrize("response", [RESPONSE, None], ids=["response", "tombstone"])
    def test_what_was_completed_is_never_abandoned(
        self, store: Store, record: RecordKey, response: StoredResponse | None
    ) -> None:
        claim = self.must_claim(store, record)
        store.complete(claim, response, retention=DAY)
        store.abandon(claim)
        assert self.claim(store, record) == Completed(FINGERPRINT, response)

    def test_a_record_that_is_gone_is_abandoned_all_the_same(self, store: Store, record: RecordKey) -> None:
        assert store.abandon(Claim(record, FINGERPRINT, b"t" * 16)) is True
        assert self.claim(store, record) == Lapsed(FINGERPRINT)

    @pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
    def test_a_person_resolves_what_was_abandoned(self, store: Store, record: RecordKey, done: bool) -> None:
        store.abandon(self.must_claim(store, record))
        self.resolves(store, record, done)

    @pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
    @pytest.mark.parametrize("take_over", [True, False])
    def test_a_person_resolves_what_lapsed(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None], done: bool, take_over: bool
    ) -> None:
        self.must_claim(store, record, lease=self.short, take_over=take_over)
        end_leases()
        self.resolves(store, record, done)

    def resolves(self, store: Store, record: RecordKey, done: bool) -> None:
        """Resolve it, once: then its outcome is known."""
        assert store.resolve(record.id, done=done, retention=DAY) is True
        assert store.resolve(record.id, done=not done, retention=DAY) is False
        outcome = self.claim(store, record, OTHER_FINGERPRINT, take_over=False)
        if done:
            assert outcome == Completed(FINGERPRINT, None)
        else:
            assert isinstance(outcome, Claimed)
            assert (outcome.number, outcome.lapsed) == (2, False)

    def test_what_was_resolved_is_kept_for_its_retention(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        store.abandon(self.must_claim(store, record))
        store.resolve(record.id, done=True, retention=self.short)
        assert self.claim(store, record) == Completed(FINGERPRINT, None)
        end_leases()
        outcome = self.claim(store, record, OTHER_FINGERPRINT)
        assert isinstance(outcome, Claimed)
        assert outcome.number == 1

    @pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
    def test_there_is_nothing_to_resolve_where_the_outcome_is_known_or_still_to_come(
        self, store: Store, record: RecordKey, done: bool
    ) -> None:
        assert store.resolve(record.id, done=done, retention=DAY) is False
        claim = self.must_claim(store, record)
        assert store.resolve(record.id, done=done, retention=DAY) is False
        assert isinstance(self.claim(store, record), InProgress)
        store.answering(claim, lease=60.0)
        assert store.resolve(record.id, done=done, retention=DAY) is False
        store.complete(claim, RESPONSE, retention=DAY)
        assert store.resolve(record.id, done=done, retention=DAY) is False
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

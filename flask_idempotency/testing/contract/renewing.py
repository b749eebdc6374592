"""The contract on renewals: a live holder keeps its claim, and learns of it when it was fenced."""

from collections.abc import Callable

from ...engine.records import Claim, Claimed, Completed, InProgress, RecordKey
from ...engine.store import Store
from .frame import DAY, FINGERPRINT, RESPONSE, StoreContractFrame, new_record


class RenewingContract(StoreContractFrame):
    """Many claims in one call, each on its own merits."""

    def test_a_renewed_claim_does_not_lapse(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        claim = self.must_claim(store, record, lease=self.short)
        assert store.renew([claim], lease=60.0) == set()
        end_leases()
        assert isinstance(self.claim(store, record), InProgress)

    def test_a_renewal_is_of_the_same_attempt(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record, lease=30.0)
        before = self.claim(store, record)
        store.renew([claim], lease=90.0)
        after = self.claim(store, record)
        assert isinstance(before, InProgress)
        assert isinstance(after, InProgress)
        assert abs(after.started - before.started) <= 0.5
        assert after.lease_ends > before.lease_ends + 30.0

    def test_many_claims_are_renewed_at_once(self, store: Store, end_leases: Callable[[], None]) -> None:
        records = [new_record() for _ in range(50)]
        claims = [self.must_claim(store, record, lease=self.short) for record in records]
        assert store.renew(claims, lease=60.0) == set()
        end_leases()
        assert all(isinstance(self.claim(store, record), InProgress) for record in records)

    def test_a_lapsed_claim_that_nobody_took_over_is_renewed(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        claim = self.must_claim(store, record, lease=self.short)
        end_leases()
        assert store.renew([claim], lease=60.0) == set()
        assert isinstance(self.claim(store, record), InProgress)

    def test_renewing_nothing_is_fine(self, store: Store) -> None:
        assert store.renew([], lease=60.0) == set()

    def test_only_the_holder_renews_and_who_is_not_hears_so(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        mine = self.must_claim(store, new_record())
        theirs = self.must_claim(store, record, lease=self.short)
        fenced = self.strangers(theirs)
        assert store.renew([mine, fenced], lease=60.0) == {fenced}
        end_leases()
        assert isinstance(self.claim(store, record), Claimed)

    def test_what_is_gone_is_not_fenced_and_does_not_come_back(self, store: Store, record: RecordKey) -> None:
        assert store.renew([Claim(record, FINGERPRINT, b"t" * 16)], lease=60.0) == set()
        outcome = self.claim(store, record)
        assert isinstance(outcome, Claimed)
        assert outcome.number == 1

    def test_what_another_completed_is_fenced(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.complete(claim, RESPONSE, retention=DAY)
        assert store.renew([self.strangers(claim), claim], lease=60.0) == {self.strangers(claim)}

    def test_renewing_neither_revives_the_released_nor_undoes_the_completed(self, store: Store) -> None:
        released, completed = new_record(), new_record()
        claims = [self.must_claim(store, released), self.must_claim(store, completed)]
        store.release(claims[0], retention=DAY)
        store.complete(claims[1], RESPONSE, retention=DAY)
        assert claims[1] not in store.renew(claims, lease=60.0)
        assert isinstance(self.claim(store, released), Claimed)
        assert self.claim(store, completed) == Completed(FINGERPRINT, RESPONSE)

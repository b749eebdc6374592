"""The contract on lapsed claims: whose holder died or hung, and who may run in its place."""

from collections.abc import Callable

import pytest

from ...engine.records import Claimed, Completed, Lapsed, RecordKey
from ...engine.store import Store
from .frame import DAY, FINGERPRINT, OTHER_FINGERPRINT, RESPONSE, StoreContractFrame, new_record


class LapsesContract(StoreContractFrame):
    """Taken over by the same request only, and only where that is allowed."""

    def test_a_lapsed_claim_is_taken_over_and_its_holder_is_fenced(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        lost = self.must_claim(store, record, lease=self.short)
        end_leases()
        outcome = self.claim(store, record)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (2, True)
        assert store.complete(lost, RESPONSE, retention=DAY) is False
        assert store.release(lost, retention=DAY) is False
        assert store.answering(lost, lease=60.0) is False
        assert store.abandon(lost) is False
        assert store.renew([lost], lease=60.0) == {lost}
        assert store.complete(outcome.claim, RESPONSE, retention=DAY) is True
        assert store.complete(lost, None, retention=DAY) is False
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    @pytest.mark.parametrize("take_over", [True, False])
    def test_a_lapse_never_lets_another_payload_run(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None], take_over: bool
    ) -> None:
        self.must_claim(store, record, lease=self.short, take_over=take_over)
        end_leases()
        for _ in range(2):  # asking changes nothing
            assert self.claim(store, record, OTHER_FINGERPRINT, take_over=take_over) == Lapsed(FINGERPRINT)
        assert isinstance(self.claim(store, record), Claimed)

    def test_a_lapsed_claim_is_left_alone_where_it_may_not_be_taken_over(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        claim = self.must_claim(store, record, lease=self.short, take_over=False)
        end_leases()
        for _ in range(2):
            assert self.claim(store, record, take_over=False) == Lapsed(FINGERPRINT)
        assert store.complete(claim, RESPONSE, retention=DAY) is True

    def test_a_holder_that_comes_back_before_anyone_else_may_complete_or_release(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        released = new_record()
        claims = [self.must_claim(store, each, lease=self.short) for each in (record, released)]
        end_leases()
        assert store.complete(claims[0], RESPONSE, retention=DAY) is True
        assert store.release(claims[1], retention=DAY) is True
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)
        outcome = self.claim(store, released, OTHER_FINGERPRINT)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (2, False)

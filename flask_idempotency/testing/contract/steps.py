"""The contract on steps: what a part of a handler did is known to whoever runs it again."""

from collections.abc import Callable

import pytest

from ...engine.records import Claim, Claimed, InProgress, Lapsed, RecordKey
from ...engine.store import Store
from .frame import DAY, FINGERPRINT, OTHER_FINGERPRINT, RESPONSE, StoreContractFrame, new_record


class StepsContract(StoreContractFrame):
    """Kept by the holder, read by every later attempt, gone with the record."""

    def test_a_record_begins_without_steps(self, store: Store, record: RecordKey) -> None:
        assert store.load_steps(self.must_claim(store, record)) == {}

    @pytest.mark.parametrize("result", [b"", b"\x00\xff" * 1000, b'{"id": 7}'], ids=["empty", "bytes", "JSON"])
    def test_what_is_kept_is_given_back_to_the_byte(self, store: Store, record: RecordKey, result: bytes) -> None:
        claim = self.must_claim(store, record)
        assert store.keep_step(claim, "charge \u2192 caf\xe9", result, retention=DAY) is True
        assert store.load_steps(claim) == {"charge \u2192 caf\xe9": result}

    def test_a_step_that_began_is_told_from_one_that_was_kept(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        assert store.keep_step(claim, "charge", None, retention=DAY) is True
        assert store.keep_step(claim, "mail", b"sent", retention=DAY) is True
        assert store.load_steps(claim) == {"charge": None, "mail": b"sent"}
        assert store.keep_step(claim, "charge", b"paid", retention=DAY) is True
        assert store.load_steps(claim) == {"charge": b"paid", "mail": b"sent"}

    def test_a_mark_that_comes_late_never_replaces_a_result(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.keep_step(claim, "charge", b"paid", retention=DAY)
        assert store.keep_step(claim, "charge", None, retention=DAY) is True
        assert store.load_steps(claim) == {"charge": b"paid"}

    def test_a_step_that_raised_is_forgotten_and_a_result_is_not(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.keep_step(claim, "charge", None, retention=DAY)
        store.keep_step(claim, "mail", b"sent", retention=DAY)
        assert store.drop_step(claim, "charge") is True
        assert store.drop_step(claim, "mail") is True
        assert store.drop_step(claim, "never begun") is True
        assert store.load_steps(claim) == {"mail": b"sent"}

    def test_what_a_person_says_was_not_done_includes_the_step_that_it_was_at(
        self, store: Store, record: RecordKey
    ) -> None:
        claim = self.must_claim(store, record)
        store.keep_step(claim, "charge", None, retention=DAY)
        store.keep_step(claim, "mail", b"sent", retention=DAY)
        store.abandon(claim)
        assert store.resolve(record.id, done=False, retention=DAY) is True
        assert store.load_steps(self.must_claim(store, record)) == {"mail": b"sent"}

    def test_records_do_not_share_steps(self, store: Store, record: RecordKey) -> None:
        claim, other = self.must_claim(store, record), self.must_claim(store, new_record())
        store.keep_step(claim, "charge", b"paid", retention=DAY)
        assert store.load_steps(other) == {}

    def test_who_is_fenced_keeps_and_drops_nothing(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.keep_step(claim, "mail", None, retention=DAY)
        fenced = self.strangers(claim)
        for result in (None, b"paid"):
            assert store.keep_step(fenced, "charge", result, retention=DAY) is False
        assert store.drop_step(fenced, "mail") is False
        assert store.load_steps(claim) == {"mail": None}

    def test_where_there_is_no_record_there_is_nothing_to_keep_a_step_with(
        self, store: Store, record: RecordKey
    ) -> None:
        assert store.keep_step(Claim(record, FINGERPRINT, b"t" * 16), "charge", b"paid", retention=DAY) is False
        assert store.load_steps(self.must_claim(store, record)) == {}

    def test_a_released_record_with_a_result_takes_the_same_payload_only(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.keep_step(claim, "charge", b"paid", retention=DAY)
        store.release(claim, retention=DAY)
        for take_over in (True, False):
            assert self.claim(store, record, OTHER_FINGERPRINT, take_over=take_over) == Lapsed(FINGERPRINT)
        again = self.claim(store, record, take_over=False)
        assert isinstance(again, Claimed)
        assert (again.number, again.lapsed) == (2, False)
        assert store.load_steps(again.claim) == {"charge": b"paid"}
        assert store.release(again.claim, retention=DAY) is True
        assert self.claim(store, record, OTHER_FINGERPRINT) == Lapsed(FINGERPRINT)

    def test_a_mark_alone_binds_no_payload(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.keep_step(claim, "charge", None, retention=DAY)
        store.release(claim, retention=DAY)
        assert isinstance(self.claim(store, record, OTHER_FINGERPRINT), Claimed)

    def test_steps_outlast_a_lapse_and_the_old_holder_adds_none(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        lost = self.must_claim(store, record, lease=self.short)
        store.keep_step(lost, "charge", b"paid", retention=DAY)
        store.keep_step(lost, "mail", None, retention=DAY)
        end_leases()
        holder = self.must_claim(store, record)
        assert store.keep_step(lost, "mail", b"sent", retention=DAY) is False
        assert store.drop_step(lost, "mail") is False
        assert store.load_steps(holder) == {"charge": b"paid", "mail": None}

    def test_a_holder_whose_lease_ended_keeps_its_steps_while_nobody_took_over(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        claim = self.must_claim(store, record, lease=self.short)
        end_leases()
        assert store.keep_step(claim, "charge", b"paid", retention=DAY) is True
        assert store.load_steps(self.must_claim(store, record)) == {"charge": b"paid"}

    def test_a_step_prolongs_the_life_of_its_record(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        claim = self.must_claim(store, record, lease=self.short, retention=self.short)
        store.keep_step(claim, "charge", b"paid", retention=DAY)
        end_leases()
        store.purge(limit=1000)
        assert self.claim(store, record, OTHER_FINGERPRINT) == Lapsed(FINGERPRINT)
        outcome = self.claim(store, record)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (2, True)
        assert store.load_steps(outcome.claim) == {"charge": b"paid"}

    @pytest.mark.parametrize("purged", [True, False], ids=["purged", "not purged"])
    def test_when_a_records_time_is_over_its_steps_are_gone(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None], purged: bool
    ) -> None:
        released, completed, lapsed = record, new_record(), new_record()
        for each in (released, completed, lapsed):
            claim = self.must_claim(store, each, lease=self.short, retention=self.short)
            store.keep_step(claim, "charge", b"paid", retention=self.short)
            if each is released:
                store.release(claim, retention=self.short)
            elif each is completed:
                store.complete(claim, RESPONSE, retention=self.short)
        end_leases()
        if purged:
            store.purge(limit=1000)
        for each in (released, completed, lapsed):
            outcome = self.claim(store, each, OTHER_FINGERPRINT)
            assert isinstance(outcome, Claimed)
            assert (outcome.number, outcome.lapsed) == (1, False)
            assert store.load_steps(outcome.claim) == {}

    def test_a_step_takes_no_more_than_the_lease_from_others(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record, lease=60.0)
        store.keep_step(claim, "charge", b"paid", retention=DAY)
        outcome = self.claim(store, record)
        assert isinstance(outcome, InProgress)
        assert outcome.lease_ends - outcome.started <= 60.5

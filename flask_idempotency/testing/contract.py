"""The contract that every store fulfils, as a test suite. Subclass `StoreContract` and say how to open the store."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..engine.records import Claim, Claimed, Completed, InProgress, RecordKey, StoredResponse
from ..engine.store import Store

DAY = 24 * 60 * 60.0

#: A status line with its phrase, repeated headers in their order, and a body that is no text.
RESPONSE = StoredResponse(
    "201 CREATED",
    (("Content-Type", "application/octet-stream"), ("X-Twice", "b"), ("X-Twice", "a"), ("X-Latin", "caf\xe9")),
    bytes(range(256)) * 4,
)

FINGERPRINT, OTHER_FINGERPRINT = b"f" * 16, b"o" * 16


def new_record() -> RecordKey:
    """The identity of an operation that no store knows yet."""
    return RecordKey.of(b"p" * 16, str(uuid.uuid4()))


class StoreContract:
    """What the engine relies on. Time that passes is real, in short leases, unless `let_pass` moves a stopped clock.

    A subclass overrides `open_store`; each call opens another view of the same records, as another process would.
    """

    #: The lease, in seconds, of the tests that let one end: long enough for the store to answer, short enough to wait.
    short: float = 1.0

    def open_store(self) -> Store:
        """Open the store under test."""
        raise NotImplementedError

    def let_pass(self, seconds: float) -> None:
        """Let time pass for the store."""
        time.sleep(seconds)

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        """One store under test."""
        store = self.open_store()
        yield store
        store.close()

    @pytest.fixture
    def record(self) -> RecordKey:
        """A record of its own for each test."""
        return new_record()

    def claim(
        self,
        store: Store,
        record: RecordKey,
        fingerprint: bytes = FINGERPRINT,
        *,
        lease: float = 60.0,
        retention: float = DAY,
        take_over: bool = True,
    ) -> Claimed | InProgress | Completed:
        """`store.claim`, with what most tests do not care about filled in."""
        return store.claim(record, fingerprint, lease=lease, retention=retention, take_over=take_over)

    def must_claim(self, store: Store, record: RecordKey, **options: float) -> Claim:
        """Claim a record that must be free."""
        outcome = self.claim(store, record, **options)  # type: ignore[arg-type]
        assert isinstance(outcome, Claimed), outcome
        return outcome.claim

    def test_a_free_record_is_claimed_as_the_first_attempt(self, store: Store, record: RecordKey) -> None:
        outcome = self.claim(store, record)
        assert isinstance(outcome, Claimed)
        assert outcome.claim.record_id == record.id
        assert (outcome.number, outcome.lapsed) == (1, False)

    def test_tokens_are_never_the_same(self, store: Store) -> None:
        tokens = {self.must_claim(store, new_record()).token for _ in range(20)}
        assert len(tokens) == 20

    def test_a_claimed_record_is_in_progress_for_everybody_else(self, store: Store, record: RecordKey) -> None:
        self.must_claim(store, record, lease=60.0)
        outcome = self.claim(store, record)
        assert isinstance(outcome, InProgress)
        assert (outcome.fingerprint, outcome.lapsed) == (FINGERPRINT, False)
        assert 0 < outcome.lease_ends - self.now() <= 60.5

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

    def test_a_completed_record_gives_back_the_response_to_the_byte(self, store: Store, record: RecordKey) -> None:
        assert store.complete(self.must_claim(store, record), RESPONSE, retention=DAY) is True
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    @pytest.mark.parametrize("body", [b"", b"\x00", b"x" * 1024 * 1024], ids=["empty", "NUL", "1 MiB"])
    def test_a_body_of_any_size_is_kept(self, store: Store, record: RecordKey, body: bytes) -> None:
        response = StoredResponse("200 OK", (), body)
        store.complete(self.must_claim(store, record), response, retention=DAY)
        assert self.claim(store, record) == Completed(FINGERPRINT, response)

    def test_a_tombstone_says_done_and_nothing_more(self, store: Store, record: RecordKey) -> None:
        assert store.complete(self.must_claim(store, record), None, retention=DAY) is True
        assert self.claim(store, record) == Completed(FINGERPRINT, None)

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

    def test_a_stranger_cannot_complete(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        assert store.complete(Claim(record.id, b"x" * 16), RESPONSE, retention=DAY) is False
        assert store.complete(claim, RESPONSE, retention=DAY) is True

    def test_a_record_that_never_was_cannot_be_completed(self, store: Store, record: RecordKey) -> None:
        assert store.complete(Claim(record.id, b"x" * 16), RESPONSE, retention=DAY) is False
        assert isinstance(self.claim(store, record), Claimed)

    def test_a_released_record_is_free_for_any_payload(self, store: Store, record: RecordKey) -> None:
        assert store.release(self.must_claim(store, record)) is True
        outcome = self.claim(store, record, OTHER_FINGERPRINT)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (1, False)

    def test_a_claim_that_was_given_back_cannot_be_again(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        assert store.release(claim) is True
        assert store.release(claim) is False
        self.must_claim(store, record)
        assert store.release(claim) is False
        assert isinstance(self.claim(store, record), InProgress)

    def test_a_stranger_cannot_release(self, store: Store, record: RecordKey) -> None:
        self.must_claim(store, record)
        assert store.release(Claim(record.id, b"x" * 16)) is False
        assert isinstance(self.claim(store, record), InProgress)

    def test_a_completed_record_cannot_be_released(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.complete(claim, RESPONSE, retention=DAY)
        assert store.release(claim) is False
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    def test_a_released_claim_cannot_complete(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.release(claim)
        assert store.complete(claim, RESPONSE, retention=DAY) is False

    def test_a_lapsed_claim_is_taken_over_and_its_holder_is_fenced(self, store: Store, record: RecordKey) -> None:
        lost = self.must_claim(store, record, lease=self.short)
        self.let_pass(self.short + 0.1)
        outcome = self.claim(store, record)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (2, True)
        assert store.complete(lost, RESPONSE, retention=DAY) is False
        assert store.release(lost) is False
        assert store.complete(outcome.claim, RESPONSE, retention=DAY) is True

    def test_a_lapse_never_lets_another_payload_run(self, store: Store, record: RecordKey) -> None:
        self.must_claim(store, record, lease=self.short)
        self.let_pass(self.short + 0.1)
        outcome = self.claim(store, record, OTHER_FINGERPRINT)
        assert isinstance(outcome, InProgress)
        assert (outcome.fingerprint, outcome.lapsed) == (FINGERPRINT, True)

    def test_a_lapsed_claim_is_left_alone_where_it_may_not_be_taken_over(self, store: Store, record: RecordKey) -> None:
        self.claim(store, record, lease=self.short, take_over=False)
        self.let_pass(self.short + 0.1)
        outcome = self.claim(store, record, take_over=False)
        assert isinstance(outcome, InProgress)
        assert outcome.lapsed

    def test_a_holder_that_comes_back_before_anyone_else_may_complete(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record, lease=self.short)
        self.let_pass(self.short + 0.1)
        assert store.complete(claim, RESPONSE, retention=DAY) is True
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    def test_a_renewed_claim_does_not_lapse(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record, lease=self.short)
        store.renew([claim], lease=60.0)
        self.let_pass(self.short + 0.1)
        outcome = self.claim(store, record)
        assert isinstance(outcome, InProgress)
        assert not outcome.lapsed

    def test_many_claims_are_renewed_at_once(self, store: Store) -> None:
        records = [new_record() for _ in range(50)]
        claims = [self.must_claim(store, record, lease=self.short) for record in records]
        store.renew(claims, lease=60.0)
        self.let_pass(self.short + 0.1)
        assert all(isinstance(self.claim(store, record), InProgress) for record in records)

    def test_renewing_nothing_is_fine(self, store: Store) -> None:
        store.renew([], lease=60.0)

    def test_only_the_holder_renews(self, store: Store, record: RecordKey) -> None:
        self.must_claim(store, record, lease=self.short)
        store.renew([Claim(record.id, b"x" * 16)], lease=60.0)
        self.let_pass(self.short + 0.1)
        assert isinstance(self.claim(store, record), Claimed)

    def test_renewing_neither_revives_the_released_nor_undoes_the_completed(self, store: Store) -> None:
        released, completed = new_record(), new_record()
        claims = [self.must_claim(store, released), self.must_claim(store, completed)]
        store.release(claims[0])
        store.complete(claims[1], RESPONSE, retention=DAY)
        store.renew(claims, lease=60.0)
        assert isinstance(self.claim(store, released), Claimed)
        assert self.claim(store, completed) == Completed(FINGERPRINT, RESPONSE)

    def test_a_record_is_free_for_any_payload_once_its_retention_is_over(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record)
        store.complete(claim, RESPONSE, retention=self.short)
        assert self.claim(store, record) == Completed(FINGERPRINT, RESPONSE)
        self.let_pass(self.short + 0.1)
        outcome = self.claim(store, record, OTHER_FINGERPRINT)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (1, False)
        assert store.complete(claim, RESPONSE, retention=DAY) is False

    def test_a_claim_outlives_a_retention_shorter_than_its_lease(self, store: Store, record: RecordKey) -> None:
        self.must_claim(store, record, lease=60.0, retention=self.short)
        self.let_pass(self.short + 0.1)
        assert isinstance(self.claim(store, record, OTHER_FINGERPRINT), InProgress)

    def test_a_renewed_claim_outlives_its_retention(self, store: Store, record: RecordKey) -> None:
        claim = self.must_claim(store, record, lease=self.short, retention=self.short)
        store.renew([claim], lease=60.0)
        self.let_pass(self.short + 0.1)
        store.purge(limit=1000)
        assert isinstance(self.claim(store, record, OTHER_FINGERPRINT), InProgress)

    def test_a_purge_takes_what_is_over_and_leaves_the_rest(self, store: Store) -> None:
        kept, held, over = new_record(), new_record(), new_record()
        store.complete(self.must_claim(store, kept), RESPONSE, retention=DAY)
        self.must_claim(store, held, lease=60.0)
        store.complete(self.must_claim(store, over), RESPONSE, retention=self.short)
        self.let_pass(self.short + 0.1)
        store.purge(limit=1000)
        assert self.claim(store, kept) == Completed(FINGERPRINT, RESPONSE)
        assert isinstance(self.claim(store, held), InProgress)
        assert isinstance(self.claim(store, over, OTHER_FINGERPRINT), Claimed)

    def test_a_purge_takes_no_more_than_its_limit(self, store: Store) -> None:
        for _ in range(5):
            store.complete(self.must_claim(store, new_record()), RESPONSE, retention=self.short)
        self.let_pass(self.short + 0.1)
        purged = [store.purge(limit=2) for _ in range(4)]
        assert all(count <= 2 for count in purged)
        assert purged[-1] == 0

    def test_what_one_process_writes_another_reads(self, store: Store, record: RecordKey) -> None:
        other = self.open_store()
        claim = self.must_claim(store, record)
        assert isinstance(self.claim(other, record), InProgress)
        store.complete(claim, RESPONSE, retention=DAY)
        assert self.claim(other, record) == Completed(FINGERPRINT, RESPONSE)
        if other is not store:
            other.close()

    def test_of_64_threads_one_claims(self, store: Store, record: RecordKey) -> None:
        outcomes = self.race(64, lambda: self.claim(store, record))
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Claimed"] + ["InProgress"] * 63

    def test_of_64_threads_one_takes_over(self, store: Store, record: RecordKey) -> None:
        lost = self.must_claim(store, record, lease=self.short)
        self.let_pass(self.short + 0.1)
        outcomes = self.race(64, lambda: self.claim(store, record))
        assert [outcome.number for outcome in outcomes if isinstance(outcome, Claimed)] == [2]
        assert store.complete(lost, RESPONSE, retention=DAY) is False

    def test_threads_with_keys_of_their_own_all_claim_and_complete(self, store: Store) -> None:
        def claim_and_complete() -> bool:
            return store.complete(self.must_claim(store, new_record()), RESPONSE, retention=DAY)

        assert self.race(32, claim_and_complete) == [True] * 32

    def test_a_closed_store_opens_again(self, store: Store, record: RecordKey) -> None:
        store.close()
        assert isinstance(self.claim(store, record), Claimed)

    def race(self, threads: int, act: Callable[[], object]) -> list[object]:
        """What `act` returns in each of so many threads that set off together."""
        start = threading.Barrier(threads)

        def run(_: int) -> object:
            start.wait(timeout=30)
            return act()

        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(run, range(threads)))

    def now(self) -> float:
        """Epoch seconds by the clock that `lease_ends` is told in: this host's."""
        return time.time()

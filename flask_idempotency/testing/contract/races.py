"""The contract on races: of many who come at once, one wins."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ...engine.records import Claim, Claimed, Completed, RecordKey, StoredResponse
from ...engine.store import Store
from .frame import DAY, FINGERPRINT, RESPONSE, StoreContractFrame, new_record

T = TypeVar("T")


class RacesContract(StoreContractFrame):
    """Threads that set off together."""

    def test_of_64_threads_one_claims(self, store: Store, record: RecordKey) -> None:
        outcomes = self.race(64, lambda: self.claim(store, record))
        assert Counter(type(outcome).__name__ for outcome in outcomes) == {"Claimed": 1, "InProgress": 63}

    def test_of_64_threads_one_takes_over(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        lost = self.must_claim(store, record, lease=self.short)
        end_leases()
        outcomes = self.race(64, lambda: self.claim(store, record))
        assert [outcome.number for outcome in outcomes if isinstance(outcome, Claimed)] == [2]
        assert store.complete(lost, RESPONSE, retention=DAY) is False

    def test_of_64_threads_one_claims_what_was_released(self, store: Store, record: RecordKey) -> None:
        store.release(self.must_claim(store, record), retention=DAY)
        outcomes = self.race(64, lambda: self.claim(store, record))
        assert [outcome.number for outcome in outcomes if isinstance(outcome, Claimed)] == [2]

    def test_of_64_threads_one_claims_what_is_over(
        self, store: Store, record: RecordKey, end_leases: Callable[[], None]
    ) -> None:
        store.complete(self.must_claim(store, record), RESPONSE, retention=self.short)
        end_leases()
        outcomes = self.race(64, lambda: self.claim(store, record))
        assert [outcome.number for outcome in outcomes if isinstance(outcome, Claimed)] == [1]

    def test_of_many_who_complete_what_is_gone_one_is_not_fenced(self, store: Store, record: RecordKey) -> None:
        tokens = iter([bytes([number]) * 16 for number in range(32)])

        def complete() -> bytes | None:
            token = next(tokens)
            response = StoredResponse("200 OK", (), token)
            mine = Claim(record, FINGERPRINT, token)
            return token if store.complete(mine, response, retention=DAY) else None

        (winner,) = [token for token in self.race(32, complete) if token]
        assert self.claim(store, record) == Completed(FINGERPRINT, StoredResponse("200 OK", (), winner))

    def test_threads_with_keys_of_their_own_all_claim_and_complete(self, store: Store) -> None:
        def claim_and_complete() -> bool:
            return store.complete(self.must_claim(store, new_record()), RESPONSE, retention=DAY)

        assert self.race(32, claim_and_complete) == [True] * 32

    def race(self, threads: int, act: Callable[[], T]) -> list[T]:
        """What `act` returns in each of so many threads that set off together."""
        start = threading.Barrier(threads)

        def run(_: int) -> T:
            start.wait(timeout=30)
            return act()

        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(run, range(threads)))

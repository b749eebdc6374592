"""How often each kind of request asks its store, whatever the front end."""

from collections import Counter
from collections.abc import Iterable

import pytest

from flask_idempotency.engine.records import Claim, Claimed, Completed, InProgress, RecordKey, StoredResponse
from flask_idempotency.stores import MemoryStore

from .requests import UNTOUCHED, Kind, Shop

CALLS = {
    Kind.FIRST: {"claim": 1, "complete": 1},
    Kind.REPLAY: {"claim": 1},
    Kind.REUSED: {"claim": 1},
    Kind.IN_FLIGHT: {"claim": 1},
    Kind.FAILED: {"claim": 1, "release": 1},
    **{kind: {} for kind in UNTOUCHED},
}


class CountingStore(MemoryStore):
    """A real store that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def read(self) -> Counter[str]:
        return self.calls.copy()

    def claim(
        self, record: RecordKey, fingerprint: bytes, *, lease: float, retention: float, take_over: bool = True
    ) -> Claimed | InProgress | Completed:
        self.calls["claim"] += 1
        return super().claim(record, fingerprint, lease=lease, retention=retention, take_over=take_over)

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        self.calls["complete"] += 1
        return super().complete(claim, response, retention=retention)

    def release(self, claim: Claim) -> bool:
        self.calls["release"] += 1
        return super().release(claim)

    def renew(self, claims: Iterable[Claim], *, lease: float) -> None:
        self.calls["renew"] += 1
        super().renew(claims, lease=lease)

    def purge(self, *, limit: int) -> int:
        self.calls["purge"] += 1
        return super().purge(limit=limit)


@pytest.mark.parametrize("front_end", ["hooks", "decorator", "middleware"])
@pytest.mark.parametrize("kind", Kind)
def test_a_request_asks_its_store_no_more_than_it_must(kind: Kind, front_end: str) -> None:
    store = CountingStore()
    assert Shop(store, front_end).cost(kind, store.read) == CALLS[kind]


@pytest.mark.parametrize("front_end", ["hooks", "decorator", "middleware"])
def test_of_sixteen_fresh_requests_one_sweeps(front_end: str) -> None:
    store = CountingStore()
    assert Shop(store, front_end).sixteen(store.read) == {"claim": 16, "complete": 16, "purge": 1}

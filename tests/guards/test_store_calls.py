"""How often each kind of request asks its store, whatever the front end."""

from collections import Counter
from typing import Any

import pytest

from flask_idempotency.stores import MemoryStore

from .requests import UNTOUCHED, Kind, Shop

CALLS = {
    Kind.FIRST: {"claim": 1, "complete": 1},
    Kind.REPLAY: {"claim": 1},
    Kind.REUSED: {"claim": 1},
    Kind.IN_FLIGHT: {"claim": 1},
    Kind.FAILED: {"claim": 1, "release": 1},
    Kind.STREAMED: {"claim": 1, "answering": 1, "complete": 1},
    **{kind: {} for kind in UNTOUCHED},
}


class CountingStore(MemoryStore):
    """A real store that counts its calls from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if callable(found) and not name.startswith("_") and name != "read":
            self.calls[name] += 1
        return found

    def read(self) -> Counter[str]:
        return self.calls.copy()


@pytest.mark.parametrize("front_end", ["hooks", "decorator", "middleware"])
@pytest.mark.parametrize("kind", Kind)
def test_a_request_asks_its_store_no_more_than_it_must(kind: Kind, front_end: str) -> None:
    store = CountingStore()
    assert Shop(store, front_end).cost(kind, store.read) == CALLS[kind]


@pytest.mark.parametrize("front_end", ["hooks", "decorator", "middleware"])
def test_of_sixteen_fresh_requests_one_sweeps(front_end: str) -> None:
    store = CountingStore()
    assert Shop(store, front_end).sixteen(store.read) == {"claim": 16, "complete": 16, "purge": 1}

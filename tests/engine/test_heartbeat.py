"""What the heartbeat does for ends of requests that could not be written."""

import threading
from collections.abc import Callable

from flask_idempotency.engine.heartbeat import Heartbeat
from flask_idempotency.engine.records import Claim
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import MemoryStore


class Desk:
    """A heartbeat of its own, over one store."""

    def __init__(self) -> None:
        self.heartbeat = Heartbeat()
        self.store = MemoryStore()

    def owe(self, name: bytes, finish: Callable[[], object]) -> None:
        self.heartbeat.finish_later(self.store, Claim(name * 16, name * 16), 30.0, finish)


def test_an_end_that_its_store_never_takes_keeps_no_other_waiting() -> None:
    desk = Desk()
    refused, mended, paid = threading.Semaphore(0), threading.Event(), threading.Semaphore(0)
    written = [threading.Event() for _ in range(3)]

    def never() -> None:
        if not mended.is_set():
            refused.release()
            raise StoreUnavailable("not this one")
        paid.release()

    for number in range(2):
        desk.owe(b"%d" % number, never)
    assert refused.acquire(timeout=30)
    for number, event in enumerate(written):
        desk.owe(b"%d" % (5 + number), event.set)
    assert all(event.wait(30) for event in written)
    # Nor are those given up that fail: each has its turn.
    mended.set()
    assert all(paid.acquire(timeout=30) for _ in range(2))

"""An engine over a store in memory, and what its observer hears."""

from typing import Any

from flask_idempotency.engine.attempt import Attempt
from flask_idempotency.engine.engine import Engine, Refuse, Unprotected
from flask_idempotency.engine.events import Event, Outcome
from flask_idempotency.engine.heartbeat import Heartbeat, heartbeat
from flask_idempotency.engine.policy import Policy
from flask_idempotency.engine.records import StoredResponse
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import MemoryStore

ANSWER = StoredResponse("201 Created", (("X", "1"),), b"body")
NOBODY = b"p" * 16


class FailingStore(MemoryStore):
    """Fails the calls in `lost`, in its way; `asked` are all that came."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error = error or StoreUnavailable("down")
        self.lost: tuple[str, ...] = ()
        self.asked: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found
        self.asked.append(name)
        if name in self.lost:
            raise self.error
        return found


#: Every call by which a request or the heartbeat would reach the store.
EVERYTHING = ("claim", "answering", "complete", "release", "abandon", "renew", "purge")


class Desk:
    """One application's engine. Several may stand on one store, as if in processes of their own."""

    def __init__(self, store: MemoryStore | None = None, *, namespace: str = "", **policy: Any) -> None:
        self.store = MemoryStore() if store is None else store
        self.events: list[Event] = []
        self.engine = Engine(self.store, namespace=namespace, observers=[self.events.append])
        self.policy = Policy(**policy)

    def begin(
        self, fingerprint: bytes = b"f", key: str = "k", principal: bytes = NOBODY, may_wait: bool = False
    ) -> Attempt | StoredResponse | Refuse | Unprotected:
        return self.engine.begin(
            key=key,
            principal=principal,
            fingerprint=fingerprint * 16,
            request_fingerprint=b"r" * 16,
            policy=self.policy,
            may_wait=may_wait,
        )

    def run(self, fingerprint: bytes = b"f", key: str = "k", principal: bytes = NOBODY) -> Attempt:
        """Begin what must not be in anybody's way."""
        attempt = self.begin(fingerprint, key, principal)
        assert isinstance(attempt, Attempt), attempt
        return attempt

    def vanish(self, key: str = "k") -> None:
        """Claim the key in a process that is never heard of again."""
        self.engine.let_lapse(self.run(key=key))
        self.events.clear()

    def refused(self, fingerprint: bytes = b"f", key: str = "k") -> tuple[str, int | None]:
        """Begin what must be refused; why it was, and when to come back."""
        refuse = self.begin(fingerprint, key)
        assert isinstance(refuse, Refuse), refuse
        return str(refuse.refusal), refuse.retry_after

    def heard(self) -> list[Outcome]:
        """What the observer has heard since it was asked last."""
        outcomes = [event.outcome for event in self.events]
        self.events.clear()
        return outcomes


def beat() -> None:
    """One beat of the heartbeat of this process, which does not beat by itself in these tests."""
    Heartbeat._tick(heartbeat)

"""One run of a handler under a key."""

import time
from collections.abc import Callable
from enum import Enum

from .policy import Policy
from .records import Claim
from .store import Store


class State(Enum):
    """Where an attempt stands."""

    RUNNING = "running"
    ANSWERING = "answering"  # the handler has returned, and its response is being streamed
    DONE = "done"


class Attempt:
    """The attempt that a handler is in: the `key`, its `number` (1 for the first), and whether a holder `lapsed`."""

    __slots__ = (
        "claim",
        "lapsed",
        "no_steps",
        "number",
        "owed",
        "policy",
        "principal",
        "refused",
        "renewed_at",
        "request_fingerprint",
        "started_at",
        "state",
        "steps",
        "steps_used",
        "store",
    )

    def __init__(
        self,
        store: Store,
        claim: Claim,
        policy: Policy,
        *,
        principal: bytes,
        request_fingerprint: bytes,
        number: int,
        lapsed: bool,
    ) -> None:
        self.store = store
        self.claim = claim
        self.policy = policy
        self.principal = principal
        #: The request's part of the fingerprint: without what the session adds, which may be another in a rerun.
        self.request_fingerprint = request_fingerprint
        self.number = number
        self.lapsed = lapsed
        self.state = State.RUNNING
        self.refused = False  # a step could not run: whatever is answered, it is not the operation's answer
        self.steps: dict[str, bytes | None] | None = None  # what was kept of them, once one has asked
        self.steps_used: set[str] = set()  # in this run of the handler
        self.no_steps: str | None = None  # why none can be kept where the handler runs
        #: What steps could not write, by their names: False from one of them means fenced.
        self.owed: dict[str, Callable[[], bool]] = {}
        self.started_at = self.renewed_at = time.monotonic()

    def pay(self) -> bool:
        """Write what is owed; False means fenced. What raises `StoreUnavailable` is owed still."""
        while self.owed:
            name, write = next(iter(self.owed.items()))
            if not write():
                return False
            del self.owed[name]
        return True

    @property
    def key(self) -> str:
        """The idempotency key."""
        return self.claim.record.key

    @property
    def age(self) -> float:
        """Seconds since it was claimed."""
        return time.monotonic() - self.started_at

    def __repr__(self) -> str:
        # The key stays out: a repr ends up in logs.
        return f"<Attempt number={self.number} lapsed={self.lapsed} {self.state.value}>"

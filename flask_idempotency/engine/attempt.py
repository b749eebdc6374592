"""One run of a handler under a key."""

from enum import Enum

from .policy import Policy
from .records import Claim
from .store import Store


class State(Enum):
    """Where an attempt stands."""

    RUNNING = "running"
    STREAMING = "streaming"  # a tombstone stands, the response is on its way to the client
    DONE = "done"


class Attempt:
    """The attempt that a handler is in: the `key`, its `number` (1 for the first), and whether a holder `lapsed`."""

    __slots__ = ("claim", "fingerprint", "key", "lapsed", "number", "policy", "principal", "refused", "state", "store")

    def __init__(
        self,
        store: Store,
        key: str,
        claim: Claim,
        principal: bytes,
        fingerprint: bytes,
        policy: Policy,
        *,
        number: int,
        lapsed: bool,
    ) -> None:
        self.store = store
        self.key = key
        self.principal = principal
        self.fingerprint = fingerprint
        self.number = number
        self.lapsed = lapsed
        self.claim = claim
        self.policy = policy
        self.state = State.RUNNING
        self.refused = False  # a step could not run: whatever is answered, it is not the operation's answer

    def __repr__(self) -> str:
        # The key stays out: a repr ends up in logs.
        return f"<Attempt number={self.number} lapsed={self.lapsed} {self.state.value}>"

"""One run of a handler under a key."""

from enum import Enum

from .policy import Policy
from .records import Claim


class State(Enum):
    """Where an attempt stands."""

    RUNNING = "running"
    STREAMING = "streaming"  # a tombstone stands, the response is on its way to the client
    DONE = "done"


class Attempt:
    """The attempt that a handler is in: the `key`, its `number` (1 for the first), and whether a holder `lapsed`."""

    __slots__ = ("claim", "key", "lapsed", "number", "policy", "state")

    def __init__(self, key: str, claim: Claim, policy: Policy, *, number: int, lapsed: bool) -> None:
        self.key = key
        self.number = number
        self.lapsed = lapsed
        self.claim = claim
        self.policy = policy
        self.state = State.RUNNING

    def __repr__(self) -> str:
        # The key stays out: a repr ends up in logs.
        return f"<Attempt number={self.number} lapsed={self.lapsed} {self.state.value}>"

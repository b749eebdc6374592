"""What the client hears where the end of an attempt could not be written."""

from ..engine.attempt import Attempt
from ..engine.engine import End
from .problems import Problem, problem

#: Seconds after which a client may ask for the answer of the attempt that counts.
_CLAIM_LOST_RETRY_AFTER = 1

#: Seconds after which a client may ask for an answer that could not be stored yet.
_STORE_RETRY_AFTER = 5


def instead_of_answer(end: End, attempt: Attempt, *, kept: bool) -> Problem | None:
    """What is answered instead of what the handler did; None where its own answer goes out. `kept`: it was to be."""
    if end is End.FENCED:
        return problem("claim-lost", retry_after=_CLAIM_LOST_RETRY_AFTER, record_id=attempt.claim.record.id)
    if end is End.DEFERRED and kept and attempt.policy.on_completion_error == "refuse":
        return problem("store-unavailable", retry_after=_STORE_RETRY_AFTER, record_id=attempt.claim.record.id)
    return None

"""What the client hears where the end of an attempt could not be written."""

from ..engine.attempt import Attempt
from ..engine.engine import End
from .problems import Problem, problem


def instead_of_answer(end: End, attempt: Attempt, *, kept: bool) -> Problem | None:
    """What is answered instead of what the handler did; None where its own answer goes out. `kept`: it was to be."""
    if end is End.FENCED:
        return problem("claim-lost", record_id=attempt.claim.record.id)
    if end is End.DEFERRED and kept and attempt.policy.on_completion_error == "refuse":
        return problem("store-unavailable", record_id=attempt.claim.record.id)
    return None

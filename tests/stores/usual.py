"""Calls of a store with what most tests do not care about filled in."""

from typing import Any

from flask_idempotency.engine.records import Claim, Claimed, RecordKey

FINGERPRINT = b"f" * 16

#: What a claim says beside its lease and its retention.
PLAIN: dict[str, Any] = {"take_over": True, "durable": False}

#: How a record is claimed where a test does not care.
USUAL: dict[str, Any] = PLAIN | {"lease": 60.0, "retention": 60.0}

#: For as long as a statement takes.
BRIEF: dict[str, Any] = PLAIN | {"lease": 1.0, "retention": 1.0}


def strangers_claim(record: RecordKey) -> Claim:
    """A claim that no store gave."""
    return Claim(record, FINGERPRINT, b"x" * 16)


def claimed(outcome: object) -> Claim:
    """The claim of one who may run."""
    assert isinstance(outcome, Claimed), outcome
    return outcome.claim

"""Calls of a store with what most tests do not care about filled in."""

from flask_idempotency.engine.records import Claim, Claimed, Completed, InProgress, RecordKey
from flask_idempotency.engine.store import Store
from flask_idempotency.testing.contract import DAY, FINGERPRINT, new_record


def claim(
    store: Store, record: RecordKey | None = None, *, lease: float = 60.0, take_over: bool = True
) -> Claimed | InProgress | Completed:
    """Claim `record`, or one that is new."""
    return store.claim(record or new_record(), FINGERPRINT, lease=lease, retention=DAY, take_over=take_over)


def must_claim(store: Store, record: RecordKey | None = None, *, lease: float = 60.0, take_over: bool = True) -> Claim:
    """Claim a record that must be free."""
    outcome = claim(store, record, lease=lease, take_over=take_over)
    assert isinstance(outcome, Claimed), outcome
    return outcome.claim

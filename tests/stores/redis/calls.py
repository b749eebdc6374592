"""Calls of a store with what most tests do not care about filled in."""

from flask_idempotency.engine.records import Claim, Claimed, RecordKey, Standing
from flask_idempotency.engine.store import Store
from flask_idempotency.testing.contract import DAY, FINGERPRINT, new_record


def claim(
    store: Store,
    record: RecordKey | None = None,
    fingerprint: bytes = FINGERPRINT,
    *,
    lease: float = 60.0,
    retention: float = DAY,
    take_over: bool = True,
    durable: bool = False,
) -> Standing:
    """Claim `record`, or one that is new."""
    return store.claim(
        record or new_record(), fingerprint, lease=lease, retention=retention, take_over=take_over, durable=durable
    )


def must_claim(
    store: Store,
    record: RecordKey | None = None,
    *,
    lease: float = 60.0,
    retention: float = DAY,
    take_over: bool = True,
    durable: bool = False,
) -> Claim:
    """Claim a record that must be free."""
    outcome = claim(store, record, lease=lease, retention=retention, take_over=take_over, durable=durable)
    assert isinstance(outcome, Claimed), outcome
    return outcome.claim

"""What a store knows of records of each kind before a fault, and what after it."""

from flask_idempotency.engine.records import Claim, Claimed, Completed, InProgress, RecordKey
from flask_idempotency.engine.store import Store
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE

#: The kinds that the table tells apart: claims are made here under `on_lapse="rerun"` unless they say otherwise.
CLAIM, DURABLE, REFUSE, ANSWER, STEP = "claim", "durable claim", "claim under refuse", "answer", "step"

ALL = {CLAIM, DURABLE, REFUSE, ANSWER, STEP}


def keep_each(store: Store, run: str) -> None:
    """Leave one record of each kind; `run` tells them from others'."""
    _claim(store, run, DURABLE, durable=True)
    _claim(store, run, REFUSE, take_over=False)
    assert store.complete(_claim(store, run, ANSWER), RESPONSE, retention=DAY)
    assert store.keep_step(_claim(store, run, STEP), "charge", b"paid", retention=DAY)
    # Last, since whatever waits for the disk takes along what came before it.
    _claim(store, run, CLAIM)


def left_of(store: Store, run: str) -> set[str]:
    """The kinds of which this store, opened anew, knows the record that `keep_each` left."""
    left = {kind for kind in (CLAIM, DURABLE, REFUSE) if isinstance(_ask(store, run, kind), InProgress)}
    if _ask(store, run, ANSWER) == Completed(FINGERPRINT, RESPONSE):
        left.add(ANSWER)
    if store.load_steps(Claim(_record(run, STEP), FINGERPRINT, b"")) == {"charge": b"paid"}:
        left.add(STEP)
    return left


def _ask(store: Store, run: str, kind: str, *, take_over: bool = True, durable: bool = False) -> object:
    record = _record(run, kind)
    return store.claim(record, FINGERPRINT, lease=300.0, retention=DAY, take_over=take_over, durable=durable)


def _claim(store: Store, run: str, kind: str, *, take_over: bool = True, durable: bool = False) -> Claim:
    outcome = _ask(store, run, kind, take_over=take_over, durable=durable)
    assert isinstance(outcome, Claimed), outcome
    return outcome.claim


def _record(run: str, kind: str) -> RecordKey:
    return RecordKey.of(b"p" * 16, f"{run}: {kind}")

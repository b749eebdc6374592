"""What a store knows of a record of each kind before a fault, and what after it."""

from flask_idempotency.engine.records import Claim, Claimed, Completed, InProgress, RecordKey
from flask_idempotency.engine.store import Store
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE

#: The kinds that the table tells apart. A claim is one under `on_lapse="rerun"` unless it says otherwise.
CLAIM, DURABLE, REFUSE, ANSWER, STEP = "claim", "durable claim", "claim under refuse", "answer", "step"

#: A claim comes last, since what waits for the disk takes along what came before it.
KINDS = (DURABLE, REFUSE, ANSWER, STEP, CLAIM)

ALL = set(KINDS)

#: How the engine claims, where it is not as for any.
_OPTIONS = {DURABLE: {"durable": True}, REFUSE: {"durable": True, "take_over": False}}


def keep(store: Store, run: str, kind: str) -> None:
    """Leave one record; `run` tells it from others'."""
    outcome = _ask(store, run, kind)
    assert isinstance(outcome, Claimed), outcome
    if kind == ANSWER:
        assert store.complete(outcome.claim, RESPONSE, retention=DAY)
    elif kind == STEP:
        assert store.keep_step(outcome.claim, "charge", b"paid", retention=DAY)


def keep_each(store: Store, run: str) -> None:
    """Leave one record of each kind."""
    for kind in KINDS:
        keep(store, run, kind)


def left_of(store: Store, run: str) -> set[str]:
    """The kinds of which the store knows the record that was left."""
    return {kind for kind in KINDS if _knows(store, run, kind)}


def _knows(store: Store, run: str, kind: str) -> bool:
    if kind == STEP:
        return store.load_steps(Claim(_record(run, kind), FINGERPRINT, b"")) == {"charge": b"paid"}
    outcome = _ask(store, run, kind)
    return outcome == Completed(FINGERPRINT, RESPONSE) if kind == ANSWER else isinstance(outcome, InProgress)


def _ask(store: Store, run: str, kind: str) -> object:
    options = {"take_over": True, "durable": False} | _OPTIONS.get(kind, {})
    return store.claim(_record(run, kind), FINGERPRINT, lease=300.0, retention=DAY, **options)


def _record(run: str, kind: str) -> RecordKey:
    return RecordKey.of(b"p" * 16, f"{run}: {kind}")

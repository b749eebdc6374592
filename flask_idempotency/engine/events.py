"""What the engine tells about each request, for logs, metrics and signals."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Outcome(StrEnum):
    """What happened. A closed set, safe as a label of logs and metrics."""

    CLAIMED = "claimed"
    TAKEN_OVER = "taken-over"
    REPLAYED = "replayed"
    COMPLETED = "completed"
    RESPONSE_DROPPED = "response-dropped"
    RELEASED = "released"
    ABANDONED = "abandoned"
    LEFT_TO_LAPSE = "left-to-lapse"
    FENCED = "fenced"
    DEFERRED = "deferred"
    COMPLETED_LATE = "completed-late"
    UNPROTECTED = "unprotected"
    MISSING = "idempotency-key-missing"
    MALFORMED = "idempotency-key-malformed"
    REUSED = "idempotency-key-reused"
    IN_PROGRESS = "request-in-progress"
    OUTCOME_UNKNOWN = "outcome-unknown"
    NOT_KEPT = "response-not-kept"
    STORE_UNAVAILABLE = "store-unavailable"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one request.

    `record_id` is a digest that names the operation across its attempts (None before a key was read); it is fit for
    a trace, not for a label. `number` is the attempt's.
    """

    outcome: Outcome
    record_id: bytes | None = None
    number: int | None = None


class Observer(Protocol):
    """Hears every event, on the thread of the request. What it raises is logged and goes no further.

    One that has a method `hears(outcome) -> bool` is asked that first, each time: an event that nobody listens for is
    not made.
    """

    def __call__(self, event: Event, /) -> None: ...

"""Sends a logical request until it has its answer, within the policy. The loop is tenacity's.

Neither urllib3's `Retry` nor a retrying httpx transport will do: both end where the headers have arrived, so that an
answer cut in mid-body is never retried (urllib3 issue 542, requests issue 5948, httpx-retries issue 29), and neither
knows a deadline. An attempt here is everything up to the last byte.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

try:
    from tenacity import (
        AsyncRetrying,
        RetryCallState,
        Retrying,
        retry_if_exception,
        retry_if_result,
        stop_after_attempt,
        stop_before_delay,
        wait_random_exponential,
    )
except ImportError as error:
    raise ImportError(
        "Retrying needs the tenacity package: pip install 'flask-idempotency[requests]' or 'flask-idempotency[httpx]'."
    ) from error

from .policy import RetryPolicy
from .verdict import Answer, asks_again, retry_after

logger = logging.getLogger("flask_idempotency.client")

A = TypeVar("A", bound=Answer)

#: Tells which errors of an HTTP library are the network's.
IsFault = Callable[[BaseException], bool]


class Deadline:
    """Until when a logical request must have its answer, whole. It is so many `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then, as a time-out: the libraries refuse one of 0."""
        return max(self._ends - time.monotonic(), 0.001)

    @property
    def is_past(self) -> bool:
        """Whether it is too late."""
        return time.monotonic() >= self._ends


def repeat(attempt: Callable[[Deadline], A], policy: RetryPolicy, is_fault: IsFault) -> A:
    """The answer of the last attempt, or its error where that is what remains."""
    return Retrying(**_rules(policy, is_fault))(attempt, Deadline(policy.deadline))


async def repeat_async(attempt: Callable[[Deadline], Awaitable[A]], policy: RetryPolicy, is_fault: IsFault) -> A:
    """As `repeat`, for asyncio and trio."""
    return await AsyncRetrying(**_rules(policy, is_fault))(attempt, Deadline(policy.deadline))


def _rules(policy: RetryPolicy, is_fault: IsFault) -> dict[str, Any]:
    backoff = wait_random_exponential(multiplier=policy.backoff, max=policy.backoff_max)

    def wait(state: RetryCallState) -> float:
        outcome = state.outcome
        assert outcome is not None
        asked = 0.0 if outcome.failed else retry_after(outcome.result().headers)
        return max(asked, backoff(state))

    return {
        # The wait is known before it is decided whether to stop: one that would end past the deadline is not begun.
        "stop": stop_after_attempt(policy.attempts) | stop_before_delay(policy.deadline),
        "wait": wait,
        "retry": retry_if_exception(is_fault) | retry_if_result(asks_again),
        "before_sleep": _tell,
        "retry_error_callback": _last_outcome,
    }


def _last_outcome(state: RetryCallState) -> Any:
    assert state.outcome is not None
    return state.outcome.result()


def _tell(state: RetryCallState) -> None:
    outcome = state.outcome
    assert outcome is not None
    # The name of the error only: its text may hold the URL, and with it what is nobody's business.
    what = type(outcome.exception()).__name__ if outcome.failed else outcome.result().status_code
    logger.info("Attempt %d failed (%s), the next in %.1f s.", state.attempt_number, what, state.upcoming_sleep)

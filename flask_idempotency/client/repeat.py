"""Sends a logical request until it has its answer, within the policy. The loop is tenacity's.

Neither urllib3's `Retry` nor a retrying httpx transport will do: both end where the headers have arrived, so that an
answer cut in mid-body is never retried (urllib3 issue 542, requests issue 5948, httpx-retries issue 29), and neither
knows a deadline. An attempt here is everything up to the last byte.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

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

#: What an attempt that begins at the very deadline gets, in seconds: the libraries refuse a time-out of 0.
_LEAST = 0.001


A = TypeVar("A", bound=Answer)

#: Tells which errors of an HTTP library are the network's.
IsFault = Callable[[BaseException], bool]


def repeat(attempt: Callable[[float], A], policy: RetryPolicy, is_fault: IsFault) -> A:
    """The answer of the last attempt, or its error where that is what remains.

    `attempt` is given the seconds left until the deadline.
    """
    ends = time.monotonic() + policy.deadline
    return Retrying(**_rules(policy, is_fault))(lambda: attempt(_left(ends)))


async def repeat_async(attempt: Callable[[float], Awaitable[A]], policy: RetryPolicy, is_fault: IsFault) -> A:
    """As `repeat`, for asyncio and trio."""
    ends = time.monotonic() + policy.deadline

    async def once() -> A:
        return await attempt(_left(ends))

    return cast("A", await AsyncRetrying(**_rules(policy, is_fault))(once))


def _left(ends: float) -> float:
    return max(ends - time.monotonic(), _LEAST)


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

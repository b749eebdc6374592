"""Parts of a handler whose results are kept, so that a re-run does not repeat them."""

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..engine.attempt import Attempt
from ..engine.engine import Engine, Refusal, Refuse, Replay, Run
from ..engine.policy import OnLapse
from ..engine.records import StoredResponse


class StepRefused(Exception):
    """A step may not run, and what it did before is not known: the request cannot go on."""

    def __init__(self, refusal: Refusal, retry_after: int | None = None) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal
        self.retry_after = retry_after


def run_step(attempt: Attempt, name: str, work: Callable[[], Any], *, on_lapse: OnLapse | None = None) -> Any:
    """Do `work` once for this operation, and return its result, as JSON gives it back, in this attempt and all others.

    A step is an operation of its own in the same store, under the operation that it belongs to. So it is claimed,
    kept alive by the heartbeat, and survives until its own retention ends, even where the key itself was given back.
    Where the process died between doing the work and keeping its result, `on_lapse` decides (the policy's, unless
    given): the work is done again, or `StepRefused`. What `work` raises is not kept; the next attempt does it again.

    Raises `TypeError` where the result is not JSON: then the work was done, and never is again; and where `work` is
    asynchronous: then nothing was done. While the store is out of reach, a result is kept as soon as it can be, for as
    long as this process lives.
    """
    engine = Engine(attempt.store)  # of its own, without observers: what they count is requests
    decision = engine.begin(
        key=name,
        principal=attempt.claim.record_id,
        # A step done for one payload must not answer for another, which may come once the key was given back.
        fingerprint=attempt.fingerprint,
        policy=replace(
            attempt.policy,
            on_lapse=on_lapse or attempt.policy.on_lapse,
            on_store_error="refuse",
            wait=0,
            # What a step does joins no transaction, whatever the view around it does: its outcome may be unknown.
            atomic=False,
        ),
    )
    match decision:
        case Replay(kept):
            return json.loads(kept.body)
        case Refuse(refusal, retry_after):
            attempt.refused = True
            raise StepRefused(refusal, retry_after)
        case Run(step):
            assert step is not None, "steps are never run unprotected"
            return _run_and_keep(engine, attempt, step, work)


def _run_and_keep(engine: Engine, attempt: Attempt, step: Attempt, work: Callable[[], Any]) -> Any:
    try:
        result = work()
    except Exception:
        engine.release(step)
        raise
    except BaseException:  # torn off: nobody knows how far it came
        engine.abandon(step)
        raise
    if inspect.isawaitable(result):
        engine.release(step)
        if inspect.iscoroutine(result):
            result.close()  # it never began, and never will
        raise TypeError("a step must be an ordinary function, not an asynchronous one")
    try:
        body = json.dumps(result).encode()
    except Exception as error:  # whatever it is that cannot be written: the work was done
        engine.complete(step, None)
        raise TypeError("the result of a step must be JSON, so that it can be kept") from error
    if not engine.complete(step, StoredResponse("200 OK", (), body)):
        attempt.refused = True
        raise StepRefused(Refusal.IN_PROGRESS)
    return json.loads(body)

"""Parts of a handler whose results are kept, so that a rerun does not repeat them.

Results stand in the operation's record, by their names. They survive the release of its key, and are found by whatever
attempt comes next. What a process was at when it died is where no library can know whether it was done. Where that is
to be refused, a mark is left before a step begins: a result of None. One that is found says that the step began and
never ended. Where it may be run again, no mark is needed.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from ..engine.attempt import Attempt
from ..engine.policy import OnLapse
from ..engine.store import StoreUnavailable

#: Kept of a step that was done and whose result cannot be. No JSON is empty.
_DONE_WITHOUT_RESULT = b""

#: What every store can hold: MariaDB's keys have a limit.
_MAX_NAME_BYTES = 512


class StepRefused(Exception):
    """The request cannot go on: a step may not run, or was done and cannot be kept. `slug` names the problem."""

    def __init__(self, slug: str) -> None:
        super().__init__(slug)
        self.slug = slug


def run_step(
    attempt: Attempt,
    name: str,
    function: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    on_lapse: OnLapse | None = None,
) -> Any:
    """Call `function` once for this operation; return its result, as JSON gives it back, in this attempt and in others.

    The result is kept, and synced, before this returns. Where a process died between doing the work and keeping its
    result, `on_lapse` decides (the policy's, unless given): the work is done again, or this raises `StepRefused`. What
    `function` raises is not kept, and comes through; the next attempt calls it again, or this one does.

    Raises `ValueError` for a name that this run has used already, and for another `on_lapse` than there is. Raises
    `TypeError` for an asynchronous function, of which nothing runs, and for a name that is none; and where the result
    is not JSON: then the work was done, and never is again, since each retry would do it and fail alike. While the
    store is out of reach, a result is in hand, and the request is refused: its key is given back only once the result
    is kept, or the process has died.
    """
    _require_sense(name, on_lapse)
    _require_ordinary(function)
    if attempt.no_steps is not None:
        raise RuntimeError(attempt.no_steps)
    if name in attempt.steps_used:
        raise ValueError(f"The step {name!r} was used in this run already: each step needs a name of its own.")
    attempt.steps_used.add(name)
    kept = _kept(attempt)
    refuse_doubt = (on_lapse or attempt.policy.on_lapse) == "refuse"
    if name in kept:
        result = kept[name]
        if result is not None:
            return _result(attempt, result)
        if refuse_doubt:
            raise _refused(attempt, "outcome-unknown")
    elif refuse_doubt:
        _begin(attempt, name)
    return _run_and_keep(attempt, name, lambda: function(*args, **(kwargs or {})))


def _run_and_keep(attempt: Attempt, name: str, work: Callable[[], Any]) -> Any:
    try:
        result = work()
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()  # it never began, and never will
            raise TypeError("a step must be an ordinary function, not an asynchronous one")
    except Exception:
        _forget(attempt, name)
        raise
    # Whatever else is raised has torn it off, and nobody knows how far it came: the mark stays, where there is one.
    try:
        body = json.dumps(result).encode()
    except Exception as error:  # whatever it is that cannot be written: the work was done
        _keep(attempt, name, _DONE_WITHOUT_RESULT)
        raise TypeError(f"the result of the step {name!r} must be JSON, so that it can be kept") from error
    _keep(attempt, name, body)
    return json.loads(body)


def _require_sense(name: object, on_lapse: object) -> None:
    # Before anything runs: with such a name, what was done could not be kept.
    if not isinstance(name, str):
        raise TypeError(f"the name of a step must be a str, not {name!r}")
    if len(name.encode()) > _MAX_NAME_BYTES:
        raise ValueError(f"the name of a step must not have more than {_MAX_NAME_BYTES} bytes of UTF-8")
    if on_lapse is not None and on_lapse not in get_args(OnLapse):
        raise ValueError(f"on_lapse of a step must be 'rerun' or 'refuse', not {on_lapse!r}")


def _require_ordinary(function: Callable[..., Any]) -> None:
    for each in (function, type(function).__call__):  # an object may have an asynchronous one
        if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each):
            raise TypeError("a step must be an ordinary function, not an asynchronous one")


def _kept(attempt: Attempt) -> dict[str, bytes | None]:
    if attempt.steps is None:
        try:
            attempt.steps = dict(attempt.store.load_steps(attempt.claim)) if attempt.number > 1 else {}
        except StoreUnavailable as error:
            raise _refused(attempt, "store-unavailable") from error
    return attempt.steps


def _result(attempt: Attempt, kept: bytes) -> Any:
    if kept == _DONE_WITHOUT_RESULT:
        raise _refused(attempt, "response-not-kept")
    return json.loads(kept)


def _begin(attempt: Attempt, name: str) -> None:
    """Leave the mark."""
    try:
        held = attempt.store.keep_step(attempt.claim, name, None, retention=attempt.policy.retention)
    except StoreUnavailable as error:
        raise _refused(attempt, "store-unavailable") from error
    if not held:
        raise _refused(attempt, "claim-lost")
    attempt.owed.pop(name, None)
    _kept(attempt)[name] = None


def _forget(attempt: Attempt, name: str) -> None:
    """Take the mark away, where there is one. That it was fenced, the end of the attempt will hear."""
    attempt.steps_used.discard(name)
    kept = _kept(attempt)
    if name not in kept:
        return
    del kept[name]

    def drop() -> bool:
        return attempt.store.drop_step(attempt.claim, name)

    try:
        drop()
    except StoreUnavailable:
        attempt.owed[name] = drop


def _keep(attempt: Attempt, name: str, result: bytes) -> None:
    _kept(attempt)[name] = result

    def keep() -> bool:
        return attempt.store.keep_step(attempt.claim, name, result, retention=attempt.policy.retention)

    try:
        held = keep()
    except StoreUnavailable as error:
        attempt.owed[name] = keep
        raise _refused(attempt, "store-unavailable") from error
    if not held:
        raise _refused(attempt, "claim-lost")


def _refused(attempt: Attempt, slug: str) -> StepRefused:
    attempt.refused = True
    return StepRefused(slug)

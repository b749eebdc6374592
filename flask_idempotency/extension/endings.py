"""What the end of a view leaves behind, and what is answered then."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response
from werkzeug.exceptions import HTTPException

from ..engine.attempt import Attempt, State
from ..engine.engine import End, Engine
from ..engine.policy import Policy
from ..http.ends import instead_of_answer
from ..http.problems import Problem
from ..http.replay import keep
from ..http.stream import Recording, WatchedStream
from .capture import kept_response, take_whole
from .passage import Passage, current_request
from .request_keeping import RequestKeeping

#: Makes a response of a problem.
Refuse = Callable[[Problem, Policy], Response]


class Endings:
    """Ends the attempts of one application."""

    def __init__(self, engine: Engine, request_keeping: RequestKeeping, refuse: Refuse) -> None:
        self._engine = engine
        self._request_keeping = request_keeping
        self._refuse = refuse

    def capture(self, passage: Passage, response: Response) -> Response:
        """Keep what the view has answered, or give its key back; what to answer.

        Flask asks again where an after-request hook raises, with what is answered instead: the first time has decided,
        but a stream that goes nowhere now has broken off.
        """
        attempt = passage.attempt
        if passage.streamed is not None and passage.streamed is not response:
            passage.streamed.close()
        if attempt is None or attempt.state is not State.RUNNING or passage.streamed is not None:
            return response
        committed = passage.committed
        if committed is not None:
            kept = committed.kept  # whatever was done to the answer since
        else:
            kept = attempt.policy.keeps(response.status_code) and not attempt.refused
        end = self._conclude(passage, attempt, response, kept)
        if attempt.policy.keep_request:
            self._request_keeping.forget(current_request(), attempt)
        if end is End.WRITTEN or (end is End.FENCED and committed is not None):
            return response
        instead = instead_of_answer(end, attempt, kept=kept)
        if instead is None:
            return response
        response.close()
        return self._refuse(instead, attempt.policy)

    def tear_down(self, passage: Passage, error: BaseException | None) -> None:
        """End an attempt where an exception passed by everything that makes responses of exceptions."""
        attempt = passage.attempt
        if attempt is None or attempt.state is not State.RUNNING or passage.streamed is not None:
            return
        # As by a worker's time-out. The client hears nothing, and the completer may finish it.
        torn_off = error is not None and not isinstance(error, Exception)
        committed = passage.committed
        if committed is not None and committed.kept:
            self._engine.complete(attempt, committed.response)
        elif attempt.policy.atomic or attempt.refused:
            self._engine.release(attempt)  # nothing was done, or what was has ended
        elif torn_off:
            self._engine.let_lapse(attempt)  # nobody knows how far it came
        else:
            self._engine.fail(attempt)
        if not torn_off and attempt.policy.keep_request:
            self._request_keeping.forget(current_request(), attempt)

    def _conclude(self, passage: Passage, attempt: Attempt, response: Response, kept: bool) -> End:
        policy, engine = attempt.policy, self._engine
        if kept and passage.committed is not None and not policy.keeps(response.status_code):
            # Something else was made of the answer, but the work is done.
            return engine.complete(attempt, passage.committed.response)
        if not isinstance(response.response, list | tuple) and not take_whole(response, policy.max_response_bytes):
            return self._stream(passage, attempt, response, kept)
        if kept:
            return engine.complete(attempt, kept_response(response, policy))
        return engine.fail(attempt) if _has_failed(passage, response) else engine.release(attempt)

    def _stream(self, passage: Passage, attempt: Attempt, response: Response, kept: bool) -> End:
        engine, policy = self._engine, attempt.policy
        end = engine.answering(attempt) if kept else End.WRITTEN
        if instead_of_answer(end, attempt, kept=kept) is not None:
            if end is not End.FENCED:  # it was done, and what it answers is lost
                engine.complete(attempt, None)
            return end
        status, headers, failed = response.status, list(response.headers), _has_failed(passage, response)

        def conclude(body: bytes | None) -> None:
            if kept:
                engine.complete(attempt, None if body is None else keep(status, headers, body, policy))
            elif failed:
                engine.fail(attempt)
            else:
                engine.release(attempt)

        source = response.response
        response.response = WatchedStream(
            response.iter_encoded(),
            conclude,
            recording=Recording(limit=policy.max_response_bytes),
            length=response.content_length,
            close=getattr(source, "close", None),
        )
        passage.streamed = response
        return end


def _has_failed(passage: Passage, response: Response) -> bool:
    """Whether the handler has, rather than refused: where the policy refuses doubt, its outcome is unknown.

    That of an atomic view is known: it has committed, or nothing was done.
    """
    error = passage.error
    attempt = passage.attempt
    refused = attempt is not None and (attempt.refused or attempt.policy.atomic)
    raised = error is not None and not isinstance(error, HTTPException)
    return not refused and (raised or response.status_code >= 500)

"""Atomic views: what a view commits and what it answers become one transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, after_this_request, current_app, request
from werkzeug.exceptions import HTTPException, InternalServerError

from ..engine.attempt import Attempt
from ..engine.engine import Engine
from ..engine.records import StoredResponse
from ..http.problems import problem
from .database import database_of
from .passage import Passage, kept_response, take_whole

if TYPE_CHECKING:
    from ..exactly_once.atomic import AtomicRunner, DoneBefore

logger = logging.getLogger("flask_idempotency")

#: Seconds after which a client may try again when its transaction met another's.
_CONFLICT_RETRY_AFTER = 1

#: Seconds after which a client may try again when nobody can say whether the view was done.
_UNKNOWN_RETRY_AFTER = 5


class AtomicViews:
    """Runs the atomic views of one application, on the sessions it was given or on Flask-SQLAlchemy's."""

    def __init__(
        self,
        app: Flask,
        engine: Engine,
        sessions: Any,
        refuse: Callable[..., Response],
        replay: Callable[..., Response],
    ) -> None:
        self._app = app
        self._engine = engine
        self._sessions = sessions
        self._refuse = refuse
        self._replay = replay
        self._known_runner: AtomicRunner | None = None

    def run(
        self, passage: Passage, attempt: Attempt, view: Callable[[], Any], rewind: Callable[[], object]
    ) -> Response:
        """What the view answers, or what an earlier attempt has. Raises an HTTPException with a problem in it."""
        from ..exactly_once.atomic import Done, DoneOrNot, TransactionConflict

        policy = attempt.policy

        def response_of(response: Response) -> tuple[bool, StoredResponse | None]:
            if not policy.keeps(response.status_code) or attempt.refused:
                return False, None
            at_hand = take_whole(response, policy.max_response_bytes)
            passage.committed_response = kept_response(response, policy) if at_hand else None
            return True, passage.committed_response

        try:
            outcome = self._runner().run(attempt, lambda: self._answer(view), response_of, before_rerun=rewind)
        except TransactionConflict as conflict:
            raise self._refusal(attempt, "transaction-conflict", _CONFLICT_RETRY_AFTER) from conflict
        except DoneOrNot as error:
            logger.warning("Whether an atomic view was done could not be found out: %s", error)
            # Not given back: under a claim that lapsed, the next attempt looks for the proof before the view runs.
            self._engine.abandon(attempt)
            raise self._refusal(attempt, "store-unavailable", _UNKNOWN_RETRY_AFTER) from error
        except Exception:
            after_this_request(_no_success)
            raise
        if isinstance(outcome, Done):
            passage.committed = outcome.committed
            return outcome.answer
        return self._answer_of(outcome, passage, attempt)

    def _answer(self, view: Callable[[], Any]) -> Response:
        """What the view answers, whether it returns that or leaves with `abort(response)`."""
        try:
            return self._app.make_response(view())
        except HTTPException as error:
            if error.code is not None or error.response is None:
                raise
            # Flask answers with it as it stands, so it is an answer like any other: its rows must stand with it.
            return self._app.make_response(error.get_response(request.environ))

    def _answer_of(self, before: DoneBefore, passage: Passage, attempt: Attempt) -> Response:
        """Answer with what an earlier attempt has committed.

        The record that it could not complete is completed after the request, as is that of a view that ran: only then
        has the answer what the hooks of the view's blueprint make of it.
        """
        proof = before.proof
        if proof.fingerprint != attempt.fingerprint:
            raise self._refusal(attempt, "idempotency-key-reused")
        if proof.response is None:
            self._engine.complete(attempt, None)
            raise self._refusal(attempt, "response-not-kept")
        passage.committed, passage.committed_response = True, proof.response
        return self._replay(proof.response)

    def _refusal(self, attempt: Attempt, slug: str, retry_after: int | None = None) -> HTTPException:
        attempt.refused = True
        return HTTPException(response=self._refuse(problem(slug, retry_after=retry_after), attempt.policy))

    def _runner(self) -> AtomicRunner:
        if self._known_runner is None:
            self._known_runner = self._make_runner()
        return self._known_runner

    def _make_runner(self) -> AtomicRunner:
        from ..exactly_once.atomic import runner_for

        return runner_for(*database_of(self._app, self._sessions))


def _no_success(response: Response) -> Response:
    """What an error handler made of an exception that has undone everything: a success it cannot be."""
    if not 200 <= response.status_code < 300:
        return response
    logger.error("An error handler answered %d for an atomic view that an exception has undone.", response.status_code)
    response.close()
    return current_app.make_response(InternalServerError().get_response(request.environ))

"""Atomic views: what a view commits and what it answers become one transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, after_this_request, current_app, request
from werkzeug.exceptions import HTTPException, InternalServerError

from ..engine.attempt import Attempt
from ..engine.engine import Engine
from ..http.problems import problem
from .capture import kept_response, take_whole
from .database import database_of, shares_sqlite_file
from .passage import Committed, Passage, current_context

if TYPE_CHECKING:
    from ..exactly_once.atomic import AtomicRunner, Ending
    from ..exactly_once.proofs import Proof

logger = logging.getLogger("flask_idempotency")

_SAME_WRITER = (
    "On SQLite an atomic view holds the one write lock of its file, so a step within it cannot be kept in a store in "
    "the same file: give the store a file of its own."
)


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
        self._no_steps: str | None = None

    def run(
        self, passage: Passage, attempt: Attempt, view: Callable[[], Any], rewind: Callable[[], object]
    ) -> Response:
        """What the view answers, or what an earlier attempt has. Raises an HTTPException with a problem in it."""
        from ..exactly_once.atomic import DoneBefore, DoneOrNot, Fenced, TransactionConflict
        from ..exactly_once.proofs import Kind

        runner = self._runner()
        attempt.no_steps = self._no_steps

        for_answer: list[Any] = current_context()._after_request_functions
        before_view = len(for_answer)

        def begin_again() -> None:
            rewind()
            del for_answer[before_view:]  # what the undone run wanted done, such as to send its e-mail
            attempt.steps_used.clear()

        try:
            outcome = runner.run(
                attempt,
                lambda: self._answer(view),
                lambda response: _ending_of(response, attempt),
                before_rerun=begin_again,
            )
        except TransactionConflict as conflict:
            raise self._refusal(attempt, "transaction-conflict") from conflict
        except DoneOrNot as error:
            logger.warning("Whether an atomic view was done could not be found out: %s", error)
            # Not given back: the next attempt looks before the view runs, and until then nothing does.
            self._engine.let_lapse(attempt)
            raise self._refusal(attempt, "store-unavailable") from error
        except Exception:
            after_this_request(partial(_no_success, attempt))
            raise
        match outcome:
            case Fenced():
                raise self._refusal(attempt, "claim-lost")
            case DoneBefore(proof):
                return self._answer_of(proof, passage, attempt)
        ending = outcome.ending
        if ending.kind is not None:
            passage.committed = Committed(kept=ending.kind is Kind.DONE, response=ending.response)
        return outcome.answer

    def _answer(self, view: Callable[[], Any]) -> Response:
        """What the view answers, whether it returns that or leaves with `abort(response)`."""
        try:
            return self._app.make_response(view())
        except HTTPException as error:
            if error.code is not None or error.response is None:
                raise
            # Flask answers with it as it stands, so it is an answer like any other: its rows must stand with it.
            return self._app.make_response(error.get_response(request.environ))

    def _answer_of(self, proof: Proof, passage: Passage, attempt: Attempt) -> Response:
        """Answer with what an earlier attempt has committed.

        The record that it could not complete is completed where that of a view that ran is: only then has the answer
        what is done to it after the view.
        """
        if proof.fingerprint != attempt.claim.fingerprint:
            raise self._refusal(attempt, "idempotency-key-reused")
        passage.committed = Committed(kept=True, response=proof.response)
        if proof.response is None:
            self._engine.complete(attempt, None)
            raise self._refusal(attempt, "response-not-kept")
        return self._replay(proof.response)

    def _refusal(self, attempt: Attempt, slug: str) -> HTTPException:
        attempt.refused = True
        refusal = problem(slug, record_id=attempt.claim.record.id)
        return HTTPException(response=self._refuse(refusal, attempt.policy))

    def _runner(self) -> AtomicRunner:
        if self._known_runner is None:
            from ..exactly_once.atomic import runner_for

            database = database_of(self._app, self._sessions)
            if shares_sqlite_file(self._engine.store, database.engine):
                self._no_steps = _SAME_WRITER
            self._known_runner = runner_for(*database)
        return self._known_runner


def _ending_of(response: Response, attempt: Attempt) -> Ending:
    """What becomes of what the view committed, now that it has answered so."""
    from ..exactly_once.atomic import RELEASED, UNDONE, Ending
    from ..exactly_once.proofs import Kind

    policy, status = attempt.policy, response.status_code
    if attempt.refused or status >= 500:  # one that the policy keeps is kept alone
        return UNDONE
    if not policy.keeps(status):
        return RELEASED
    at_hand = take_whole(response, policy.max_response_bytes)
    return Ending(Kind.DONE, kept_response(response, policy) if at_hand else None)


def _no_success(attempt: Attempt, response: Response) -> Response:
    """What an error handler made of an exception that has undone everything: a success it cannot be."""
    if attempt.policy.keep == "success":
        attempt.refused = True  # a redirect may lead to where the client tries again: it goes out, and is not kept
    if not 200 <= response.status_code < 300:
        return response
    logger.error("An error handler answered %d for an atomic view that an exception has undone.", response.status_code)
    response.close()
    return current_app.make_response(InternalServerError().get_response(request.environ))

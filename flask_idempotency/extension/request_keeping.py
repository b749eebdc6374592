"""Keeps the requests of views that ask for it, and lets what a crash left of them be worked on again."""

from __future__ import annotations

import json
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, request, request_started
from werkzeug.exceptions import HTTPException
from werkzeug.test import EnvironBuilder, run_wsgi_app

from ..engine.attempt import Attempt, State
from ..engine.store import RecordUnreadable
from ..http.admission import ATTEMPT, RESUMED, Resumed
from ..http.principal import call_with_request
from ..http.problems import slug_of
from ..http.replay import REPLAYED_HEADER
from .database import database_of
from .passage import rewind

if TYPE_CHECKING:
    from ..engine.policy import Policy
    from ..exactly_once.kept_requests import KeptRequest, KeptRequests

logger = logging.getLogger("flask_idempotency")

#: What is kept of a request's headers, beside that of the key. The others may be credentials, and the work needs them
#: least.
_KEPT_HEADERS = (
    "Accept",
    "Accept-Language",
    "Content-Encoding",
    "Content-Language",
    "Content-Type",
    "Host",
    "User-Agent",
)

#: A request with a larger body is not kept: its work can be finished by the client alone.
_MAX_BODY_BYTES = 1024 * 1024

# What became of a request that was worked on. A status instead: it was answered with that, and has not been done.
DONE = "done"
WAITING = "in progress or refused"
UNREADABLE = "unreadable"
UNPROTECTED = "without a key in force"

Fate = str | int


#: Where the environ of a resumed request carries what is seen of it.
_REENTRY = "flask_idempotency.reentry"


class Reentry:
    """What is seen of a resumed request where it has come through the application's own middleware."""

    __slots__ = ("environ", "unprotected")

    def __init__(self) -> None:
        self.environ: dict[str, Any] = {}  # as the view has it: middleware may hand on a copy
        self.unprotected = False


class RequestKeeping:
    """The kept requests of one application."""

    def __init__(self, app: Flask, policy: Policy, sessions: Any) -> None:
        self._app = app
        self._policy = policy
        self._sessions = sessions
        self._known: KeptRequests | None = None

    def keep(self, request: Request, attempt: Attempt) -> None:
        """Keep a request that was just claimed."""
        policy = attempt.policy
        wanted = policy.keep_request
        if not wanted or RESUMED in request.environ:
            return
        from ..exactly_once.kept_requests import KeptRequest

        body = request.environ["wsgi.input"].read(_MAX_BODY_BYTES + 1)
        rewind(request)
        if len(body) > _MAX_BODY_BYTES:
            return
        names = (*_KEPT_HEADERS, policy.header)
        self._requests().keep(
            KeptRequest(
                key=attempt.key,
                principal=attempt.principal,
                method=request.method,
                scheme=request.environ["wsgi.url_scheme"],
                script_name=request.environ.get("SCRIPT_NAME", ""),
                path=request.environ.get("PATH_INFO", ""),
                query=request.environ.get("QUERY_STRING", ""),
                headers=tuple((name, request.headers[name]) for name in names if name in request.headers),
                body=body,
                context=None if wanted is True else call_with_request(wanted, request),
            ),
            attempt.claim.record_id,
            due_in=policy.lease,
            # Before the record can be gone, by whatever clock: without it, what was done long ago would be done again.
            expires_in=policy.retention - policy.lease,
        )

    def forget(self, request: Request, attempt: Attempt) -> None:
        """Forget a request whose attempt has ended in an answer; the client that heard it decides what follows."""
        if attempt.policy.keep_request and attempt.state is not State.RUNNING and RESUMED not in request.environ:
            from sqlalchemy.exc import SQLAlchemyError

            try:
                self._requests().forget(attempt.claim.record_id)
            except SQLAlchemyError as error:
                # The answer goes out all the same. The completer will hear it, too, and forget the request.
                logger.warning("A kept request could not be forgotten: %s", type(error).__name__)

    def complete(self, *, limit: int) -> Counter[Fate]:
        """Work on up to `limit` requests that crashes have left; how many met which fate.

        A request is left when its lease is over, and can be finished while its record stands for sure. One whose
        answer was kept, now or before, is forgotten; any other stays, and lets others go first the next time.
        """
        requests = self._requests()
        requests.forget_expired()
        fates: Counter[Fate] = Counter()
        with request_started.connected_to(_look_into, sender=self._app):
            for row_id in requests.due(limit=limit):
                try:
                    kept = requests.take(row_id, due_in=self._policy.lease)
                except RecordUnreadable as error:
                    logger.warning("A kept request was left alone: %s", error)
                    fates[UNREADABLE] += 1
                    continue
                if kept is None:
                    continue
                fate = self._work_on(kept)
                if fate == DONE:
                    requests.forget_row(row_id)
                fates[fate] += 1
        return fates

    def _work_on(self, kept: KeptRequest) -> Fate:
        environ = EnvironBuilder(method=kept.method, headers=list(kept.headers), data=kept.body).get_environ()
        # As the server gave them: the fingerprint was made of these.
        environ.update(SCRIPT_NAME=kept.script_name, PATH_INFO=kept.path, QUERY_STRING=kept.query)
        environ["wsgi.url_scheme"] = kept.scheme
        environ[RESUMED] = Resumed(kept.key, kept.principal, kept.context)
        environ[_REENTRY] = reentry = Reentry()
        try:
            chunks, status_line, headers = run_wsgi_app(self._app.wsgi_app, environ, buffered=True)
            body = b"".join(chunks)
        except Exception:  # as it passes through the application's WSGI callable in debug mode
            logger.exception("A kept request has failed.")
            return 500
        if reentry.unprotected:
            return UNPROTECTED
        refusal = _refusal_in(headers.get("Content-Type"), body)
        if headers.get(REPLAYED_HEADER[0]) == REPLAYED_HEADER[1] or refusal == "response-not-kept":
            return DONE
        status = int(status_line[:3])
        if refusal is not None:
            return WAITING if status == 409 else status
        attempt: Attempt | None = reentry.environ.get(ATTEMPT)
        return DONE if attempt is not None and attempt.policy.keeps(status) else status

    def _requests(self) -> KeptRequests:
        if self._known is None:
            from ..exactly_once.at_rest import AtRest
            from ..exactly_once.kept_requests import KeptRequests, request_table

            database = database_of(self._app, self._sessions)
            at_rest = AtRest(b"request", database.cipher)
            self._known = KeptRequests(database.engine, request_table(database.metadata), at_rest)
        return self._known


def _look_into(app: Flask, **_: object) -> None:
    """Stop a resumed request whose view has been exempted since: nothing would keep it from being done twice."""
    reentry: Reentry | None = request.environ.get(_REENTRY)
    if reentry is None:
        return
    reentry.environ = request.environ
    if request.url_rule is not None and app.extensions["idempotency"].views.of(request) is None:
        reentry.unprotected = True
        # With a response of its own, so that no error handler makes another of it.
        raise HTTPException(response=app.response_class(status=409))


def _refusal_in(content_type: str | None, body: bytes) -> str | None:
    """Which of our refusals an answer is; None for what the application says itself."""
    if content_type != "application/problem+json":
        return None
    try:
        problem_type = str(json.loads(body)["type"])
    except (LookupError, TypeError, ValueError):
        return None
    return slug_of(problem_type)

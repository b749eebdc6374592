"""Keeps the requests of views that ask for it, and lets what a crash left of them be worked on again."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, request, request_started
from werkzeug.exceptions import HTTPException
from werkzeug.test import EnvironBuilder, run_wsgi_app

from ..engine.attempt import Attempt, State
from ..engine.store import RecordUnreadable
from ..http.admission import ATTEMPT, RESUMED, Resumed
from ..http.header import environ_name
from ..http.principal import call_with_request
from ..http.problems import PROBLEMS
from ..http.replay import REPLAYED_HEADER
from .database import database_of
from .passage import PASSAGE, REFUSED, Passage, rewind

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
NO_ENTRY = "nobody to enter as"

Fate = str | int

#: Lets a resumed request in as the principal that it came from: called within the request, before any hook. Returns the
#: headers to enter with, or True where it has signed in by itself; None where it cannot say.
LoginAs = Callable[[Resumed], Mapping[str, str] | bool | None]

#: Where the environ of a resumed request carries what is seen of it.
_REENTRY = "flask_idempotency.reentry"


class Reentry:
    """What is seen of a resumed request where it has come through the application's own middleware."""

    __slots__ = ("environ", "stopped")

    def __init__(self) -> None:
        self.environ: dict[str, Any] = {}  # as the view has it: middleware may hand on a copy
        self.stopped: Fate | None = None  # before anything ran


class RequestKeeping:
    """The kept requests of one application."""

    def __init__(self, app: Flask, policy: Policy, sessions: Any, login_as: LoginAs | None = None) -> None:
        self._app = app
        self._policy = policy
        self._sessions = sessions
        self._login_as = login_as
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
                fingerprint=attempt.claim.fingerprint,
                method=request.method,
                scheme=request.environ["wsgi.url_scheme"],
                script_name=request.environ.get("SCRIPT_NAME", ""),
                path=request.environ.get("PATH_INFO", ""),
                query=request.environ.get("QUERY_STRING", ""),
                headers=tuple((name, request.headers[name]) for name in names if name in request.headers),
                body=body,
                context=None if wanted is True else call_with_request(wanted, request),
            ),
            attempt.claim,
            due_in=policy.lease,
            # Before the record can be gone, by whatever clock: without it, what was done long ago would be done again.
            expires_in=policy.retention - policy.lease,
        )

    def forget(self, request: Request, attempt: Attempt) -> None:
        """Forget a request whose attempt has ended in an answer; the client that heard it decides what follows."""
        if attempt.policy.keep_request and attempt.state is not State.RUNNING and RESUMED not in request.environ:
            from sqlalchemy.exc import SQLAlchemyError

            try:
                self._requests().forget(attempt.claim)
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
        with request_started.connected_to(self._let_in, sender=self._app):
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
        environ[RESUMED] = Resumed(kept.key, kept.principal, kept.fingerprint, kept.context)
        environ[_REENTRY] = reentry = Reentry()
        try:
            chunks, status_line, headers = run_wsgi_app(self._app.wsgi_app, environ, buffered=True)
            b"".join(chunks)
        except Exception:  # as it passes through the application's WSGI callable in debug mode
            logger.exception("A kept request has failed.")
            return 500
        if reentry.stopped is not None:
            return reentry.stopped
        if headers.get(REPLAYED_HEADER[0]) == REPLAYED_HEADER[1]:
            return DONE
        return _fate(int(status_line[:3]), reentry.environ)

    def _let_in(self, app: Flask, **_: object) -> None:
        """Let a resumed request in as the principal that it came from; stop it where nothing says how.

        And where its view has been exempted since: nothing would keep it from being done twice.
        """
        reentry: Reentry | None = request.environ.get(_REENTRY)
        if reentry is None:
            return
        reentry.environ = request.environ
        if request.url_rule is None:
            return
        in_force = app.extensions["idempotency"].views.of(request)
        if in_force is None:
            reentry.stopped = UNPROTECTED
        elif not in_force.policy.completable and not self._enter(request.environ):
            reentry.stopped = NO_ENTRY
        if reentry.stopped is not None:
            # With a response of its own, so that no error handler makes another of it.
            raise HTTPException(response=app.response_class(status=409))

    def _enter(self, environ: dict[str, Any]) -> bool:
        if self._login_as is None:
            return False
        entered = self._login_as(environ[RESUMED])
        if isinstance(entered, Mapping):
            environ.update((environ_name(name), value) for name, value in entered.items())
            return True
        return bool(entered)

    def _requests(self) -> KeptRequests:
        if self._known is None:
            from ..exactly_once.at_rest import AtRest
            from ..exactly_once.kept_requests import KeptRequests, request_table

            database = database_of(self._app, self._sessions)
            self._known = KeptRequests(
                database.engine,
                request_table(database.metadata),
                AtRest(b"request", database.cipher),
                namespace=self._app.extensions["idempotency"].engine.namespace,
            )
        return self._known


def _fate(status: int, environ: dict[str, Any]) -> Fate:
    """What became of a request that came in, was answered with `status`, and is no replay."""
    slug: str | None = environ.get(REFUSED)
    passage: Passage | None = environ.get(PASSAGE)
    attempt: Attempt | None = environ.get(ATTEMPT)
    if slug is None:
        return DONE if attempt is not None and attempt.policy.keeps(status) else status
    # Said of the operation, and not of a step in it.
    if slug == "response-not-kept" and (attempt is None or (passage is not None and passage.committed is not None)):
        return DONE
    return WAITING if PROBLEMS[slug].status == 409 else status

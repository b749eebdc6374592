"""Keeps the requests of views that ask for it, and lets what a crash left of them be worked on again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flask import Flask, Request
from werkzeug.test import EnvironBuilder, run_wsgi_app

from ..engine import clock
from ..engine.attempt import Attempt, State
from ..engine.policy import Policy
from ..http.admission import RESUMED, Resumed
from ..http.principal import call_with_request
from .database import database_of
from .passage import rewind

if TYPE_CHECKING:
    from ..exactly_once.kept_requests import KeptRequest, KeptRequests

#: What is kept of a request's headers. The others may be credentials, and the work needs them least.
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


class RequestKeeping:
    """The kept requests of one application."""

    def __init__(self, app: Flask, policy: Policy, sessions: Any) -> None:
        self._app = app
        self._policy = policy
        self._sessions = sessions
        self._known: KeptRequests | None = None

    def keep(self, request: Request, attempt: Attempt) -> None:
        """Keep a request that was just claimed."""
        wanted = attempt.policy.keep_request
        if not wanted or RESUMED in request.environ:
            return
        from ..exactly_once.kept_requests import KeptRequest

        body = request.environ["wsgi.input"].read(_MAX_BODY_BYTES + 1)
        rewind(request)
        if len(body) > _MAX_BODY_BYTES:
            return
        self._requests().keep(
            KeptRequest(
                record_id=attempt.claim.record_id,
                key=attempt.key,
                principal=attempt.principal,
                method=request.method,
                script_name=request.environ.get("SCRIPT_NAME", ""),
                path=request.environ.get("PATH_INFO", ""),
                query=request.environ.get("QUERY_STRING", ""),
                headers=tuple((name, request.headers[name]) for name in _KEPT_HEADERS if name in request.headers),
                body=body,
                context=None if wanted is True else call_with_request(wanted, request),
                kept_at=clock.now(),
            )
        )

    def forget(self, request: Request, attempt: Attempt) -> None:
        """Forget a request whose attempt has ended in an answer; the client that heard it decides what follows."""
        if attempt.policy.keep_request and attempt.state is not State.RUNNING and RESUMED not in request.environ:
            self._requests().forget(attempt.claim.record_id)

    def complete(self, *, limit: int) -> Iterator[tuple[KeptRequest, int]]:
        """Work on what crashes have left: each request, and the status that it was answered with.

        A request is left when its lease is over. One that is answered with a 2xx is forgotten, any other stays.
        """
        requests = self._requests()
        for kept in requests.older_than(self._policy.lease, limit=limit):
            status = self._work_on(kept)
            if 200 <= status < 300:
                requests.forget(kept.record_id)
            yield kept, status

    def _work_on(self, kept: KeptRequest) -> int:
        environ = EnvironBuilder(method=kept.method, headers=list(kept.headers), data=kept.body).get_environ()
        # As the server gave them: the fingerprint was made of these.
        environ.update(SCRIPT_NAME=kept.script_name, PATH_INFO=kept.path, QUERY_STRING=kept.query)
        environ[RESUMED] = Resumed(kept.key, kept.principal, kept.context)
        chunks, status, _ = run_wsgi_app(self._app.wsgi_app, environ, buffered=True)
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
        return int(status[:3])

    def _requests(self) -> KeptRequests:
        if self._known is None:
            from ..exactly_once.kept_requests import KeptRequests, request_table

            database = database_of(self._app, self._sessions)
            self._known = KeptRequests(database.engine, request_table(database.metadata))
        return self._known

"""Idempotency keys for any WSGI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from werkzeug import Request
from werkzeug.exceptions import HTTPException

from .engine.engine import Engine, Replay, Run
from .engine.events import Observer
from .engine.policy import Policy, PolicyError
from .engine.store import Store
from .http.admission import ATTEMPT, admit, in_attempt, place_body
from .http.exchange import Exchange
from .http.policy_page import Rules, answer, link_target
from .http.problems import Problem
from .http.replay import replay_headers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class IdempotencyMiddleware:
    """Wraps `app` so that clients may retry its POST and PATCH requests.

    It keeps the final bytes, and a replay never enters the application: whatever the application refuses, it must
    refuse by the principal, so set `Policy(principal=…)` to what tells callers apart.

    `policy` may be a callable of the environ that returns the `Policy` of this request, or None to leave it alone. The
    application finds the attempt at `environ["flask_idempotency.attempt"]`.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        store: Store,
        policy: Policy | Callable[[dict[str, Any]], Policy | None] | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        self._app = app
        self._policy = Policy() if policy is None else policy
        if isinstance(self._policy, Policy):
            _check(self._policy)
        self._engine = Engine(store, observers=observers)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        policy = self._policy if isinstance(self._policy, Policy) else self._policy(environ)
        if policy is None or in_attempt(environ):
            return self._app(environ, start_response)
        if policy is not self._policy:
            _check(policy)
        method = environ["REQUEST_METHOD"]
        # Werkzeug, and so Flask, takes `patch` for PATCH; browsers send it as it is written.
        if method not in policy.methods and method.upper() not in policy.methods:
            if environ.get("PATH_INFO") == policy.docs_url and method in ("GET", "HEAD"):
                return answer(_request(environ), [Rules(policy)])(environ, start_response)
            return self._app(environ, start_response)
        body = place_body(environ, policy)
        if body is None and not policy.required:
            return self._app(environ, start_response)
        try:
            decision = admit(environ, body, request=lambda: _request(environ), engine=self._engine, policy=policy)
            if body is not None and not isinstance(decision, Replay | Problem):
                body.rewind()
        except HTTPException as error:  # what `key_from` raised about the request
            return error.get_response(environ)(environ, start_response)
        match decision:
            case Run(attempt) if attempt is not None:
                environ[ATTEMPT] = attempt
                return Exchange(attempt, self._engine, start_response).run(self._app, environ)
            case Replay(kept):
                start_response(kept.status, replay_headers(kept))
                return [kept.body] if kept.body else []
            case Problem():
                docs_url = link_target(environ.get("SCRIPT_NAME", ""), policy.docs_url)
                start_response(decision.status_line, decision.headers(docs_url))
                return [] if environ["REQUEST_METHOD"] == "HEAD" else [decision.body]
        return self._app(environ, start_response)


def _check(policy: Policy) -> None:
    # Taken for atomic, a lapsed request would run again even where the policy says refuse.
    for option in ("atomic", "keep_request"):
        if getattr(policy, option):
            raise PolicyError(f"{option} needs the Flask extension: the middleware knows no session to join.")


def _request(environ: WSGIEnvironment) -> Request:
    # Not populated: the application makes its own request of this environ.
    return Request(environ, populate_request=False)

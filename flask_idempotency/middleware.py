"""Idempotency keys for any WSGI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from werkzeug import Request
from werkzeug.exceptions import HTTPException

from .engine.attempt import Attempt
from .engine.engine import Engine
from .engine.events import Observer
from .engine.policy import Policy, PolicyError
from .engine.records import StoredResponse
from .engine.store import Store
from .http.admission import ATTEMPT, admit, in_attempt, place_body
from .http.exchange import Exchange
from .http.policy_page import Rules, answer
from .http.problems import Docs, Problem
from .http.refusals import dressed
from .http.replay import replay_headers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class IdempotencyMiddleware:
    """Wraps `app` so that clients may retry its POST and PATCH requests.

    It keeps the final bytes, and a replay never enters the application: whatever the application refuses, it must
    refuse by the principal, so set `Policy(principal=…)` to what tells callers apart.

    `policy` may be a callable of the environ that returns the `Policy` of this request, or None to leave it alone.
    `namespace` names the application; one whose store others share must give it. `docs_path` serves the page that
    documents the policy, and `docs_url` is where it stands otherwise. The application finds the attempt at
    `environ["flask_idempotency.attempt"]`.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        store: Store,
        policy: Policy | Callable[[dict[str, Any]], Policy | None] | None = None,
        namespace: str = "",
        docs_url: str | None = None,
        docs_path: str | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        self._app = app
        self._docs = Docs(url=docs_url, path=docs_path)
        self._page = docs_path
        self._policy_of: Callable[[dict[str, Any]], Policy | None] | None = None
        self._policy = Policy()
        if isinstance(policy, Policy):
            _check(policy)
            self._policy = policy
        elif callable(policy):
            self._policy_of = policy
        elif policy is not None:
            raise PolicyError(f"policy must be a Policy, a callable of the environ, or None, not {policy!r}.")
        self._engine = Engine(store, namespace=namespace, observers=observers)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        policy: Policy | None = self._policy
        if self._policy_of is not None:
            policy = self._policy_of(environ)
            if policy is not None:
                _check(policy)
        method = environ["REQUEST_METHOD"]
        if self._page is not None and environ.get("PATH_INFO") == self._page and method in _READING:
            rules = [] if policy is None else [Rules(policy)]
            return answer(_request(environ), rules, self._docs)(environ, start_response)
        if policy is None:
            return self._app(environ, start_response)
        # Werkzeug, and so Flask, takes `patch` for PATCH; browsers send it as it is written.
        if method not in policy.methods and method.upper() not in policy.methods:
            return self._app(environ, start_response)
        if ATTEMPT in environ and in_attempt(environ):
            return self._app(environ, start_response)
        body = place_body(environ, policy)
        if body is None:
            return self._app(environ, start_response)
        try:
            decision = admit(environ, body, request=partial(_request, environ), engine=self._engine, policy=policy)
            if decision is None or isinstance(decision, Attempt):
                body.rewind()
        except HTTPException as error:  # what `key_from` raised about the request
            return error.get_response(environ)(environ, start_response)
        if isinstance(decision, StoredResponse):
            start_response(decision.status, replay_headers(decision))
            return [decision.body] if decision.body else []
        if isinstance(decision, Attempt):
            environ[ATTEMPT] = decision
            refuse = partial(self._refuse, environ, start_response, policy, environ.get("SCRIPT_NAME", ""))
            return Exchange(decision, self._engine, start_response, refuse).run(self._app, environ)
        if decision is None:
            return self._app(environ, start_response)
        return self._refuse(environ, start_response, policy, environ.get("SCRIPT_NAME", ""), decision)

    def _refuse(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        policy: Policy,
        script_name: str,  # as the server made it: the application may change it on its way through itself
        refusal: Problem,
    ) -> Iterable[bytes]:
        docs = self._docs.below(script_name)
        if policy.refusal is not None:
            return dressed(refusal, docs, policy.refusal)(environ, start_response)
        document = refusal.document(docs)
        start_response(refusal.status_line, refusal.headers(docs))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [document]


_READING = ("GET", "HEAD")


def _check(policy: Policy) -> None:
    # Taken for atomic, a lapsed request would run again even where the policy says refuse.
    for option in ("atomic", "keep_request"):
        if getattr(policy, option):
            raise PolicyError(f"{option} needs the Flask extension: the middleware knows no session to join.")


def _request(environ: WSGIEnvironment) -> Request:
    # Not populated: the application makes its own request of this environ.
    return Request(environ, populate_request=False)

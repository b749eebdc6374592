"""Flask's hooks: before the view we claim, replay or refuse; after it we complete or release."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask, Request, Response, request_started
from werkzeug.exceptions import HTTPException

from ..engine.attempt import Attempt, State
from ..engine.engine import Engine, Replay, Run
from ..engine.policy import Policy
from ..engine.records import StoredResponse
from ..exactly_once.steps import StepRefused
from ..http.admission import ATTEMPT, admit, in_attempt, place_body
from ..http.policy_page import answer, link_target
from ..http.problems import Problem, problem
from ..http.replay import keep, replay_headers
from ..http.stream import Recording, WatchedStream
from .after_view import stand_after_the_view
from .atomic_views import AtomicViews
from .passage import (
    PASSAGE,
    Passage,
    current_application,
    current_request,
    is_replay_of,
    kept_response,
    passage_here,
    rewind,
    take_whole,
)
from .request_keeping import RequestKeeping
from .signed_in import SignedInUser
from .views import InForce, ViewPolicies


class Hooks:
    """What the extension does around the views of one application. Kept in `app.extensions["idempotency"]`."""

    def __init__(self, app: Flask, engine: Engine, policy: Policy, *, sessions: Any = None) -> None:
        self.app = app
        self.engine = engine
        self.policy = policy
        self.views = ViewPolicies(app, policy)
        self._signed_in = SignedInUser(app)
        self.request_keeping = RequestKeeping(app, policy, sessions)
        self._dispatch: Callable[..., Any] | None = None
        self._atomic_views = AtomicViews(app, engine, sessions, self._refuse, self._replay)

    def install(self) -> None:
        """Put the hooks where the order of `init_app` calls cannot move them.

        Our before-request hook runs after all others, those of blueprints too, so that authentication, CSRF and rate
        limits refuse first. Flask has no hook for "last", so its `preprocess_request` is extended. At the end of a
        request nothing that fails before us may keep us from giving the key back, so its `do_teardown_request` is, too.
        """
        app = self.app
        others = app.preprocess_request

        def preprocess_request(*args: Any) -> Any:
            current = current_request()
            in_force = self.views.of(current)
            if in_force is None:
                return others(*args)
            passage = self._begin(current.environ, in_force)
            if passage is None:
                return others(*args)
            if self.policy.atomic:
                self._stand_around_the_view()
            refused = others(*args)
            if refused is not None or in_force.decorated:
                return refused
            return self.admit(current, passage)

        full_dispatch = app.full_dispatch_request

        def full_dispatch_request(*args: Any) -> Response:
            if request_started.receivers:  # such as a monitor that notes down what is sent
                current = current_request()
                in_force = self.views.of(current)
                if in_force is not None:
                    self._begin(current.environ, in_force)
            return full_dispatch(*args)

        def after(passage: Passage, response: Response) -> Response:
            return self._after(passage, response)

        teardown = app.do_teardown_request

        def do_teardown_request(*args: Any) -> None:
            passage = passage_here()
            if passage is None:
                return teardown(*args)
            error = args[-1] if args else sys.exc_info()[1]
            try:
                teardown(*args)
            finally:
                self._teardown(passage, error)

        self._after_hook = after
        stand_after_the_view(app, after)
        if self.policy.atomic:
            self._stand_around_the_view()
        app.preprocess_request = preprocess_request  # type: ignore[method-assign]
        app.full_dispatch_request = full_dispatch_request  # type: ignore[method-assign]
        app.do_teardown_request = do_teardown_request  # type: ignore[method-assign, assignment]
        if self.policy.docs_url is not None and self.policy.docs_url.startswith("/"):
            app.add_url_rule(self.policy.docs_url, "idempotency_policy", self._policy_page, methods=["GET"])

    def _begin(self, environ: dict[str, Any], in_force: InForce) -> Passage | None:
        """The passage of a request, from here on if not yet; None where it passes us by."""
        if in_attempt(environ) or in_force.lets_pass(environ):
            return None
        passage = passage_here() if PASSAGE in environ else None
        if passage is None or passage.admitted:
            # Before anything reads the body: what reads it first reads it through ours.
            passage = environ[PASSAGE] = Passage(in_force.policy, place_body(environ, in_force.policy))
        return passage

    def _stand_around_the_view(self) -> None:
        """See that atomic views run in their transaction; again, where another extension has put its own in place."""
        app = self.app
        dispatch = app.dispatch_request
        if dispatch is self._dispatch:
            return

        def dispatch_request(*args: Any) -> Any:
            passage = passage_here()
            if passage is None or not passage.admitted:  # a decorator further in will see to it
                return dispatch(*args)
            return self.run(passage, lambda: dispatch(*args))

        self._dispatch = app.dispatch_request = dispatch_request  # type: ignore[method-assign]

    def admit(self, current: Request, passage: Passage) -> Response | None:
        """Claim for a request. None: it may run; else what to answer instead."""
        environ = current.environ
        passage.admitted = True
        # Not earlier: another hook, or an extension since the first request, may have made a list of its own.
        stand_after_the_view(self.app, self._after_hook)
        if passage.body is None:
            # A hook may have brought the key, after we looked for it.
            passage.body = place_body(environ, passage.policy)
        decision = admit(
            environ,
            passage.body,
            request=lambda: current,
            engine=self.engine,
            policy=passage.policy,
            limit=self._limit(current),
            signed_in=self._signed_in,
        )
        if passage.body is not None and environ["wsgi.input"] is not passage.body:
            rewind(current)
        match decision:
            case Run(attempt) if attempt is not None:
                passage.attempt = environ[ATTEMPT] = attempt
                if attempt.policy.keep_request:
                    self.request_keeping.keep(current, attempt)
            case Replay(kept):
                passage.replayed = kept
                return self._replay(kept)
            case Problem():
                return self._refuse(decision, passage.policy)
        return None

    def _limit(self, current: Request) -> int | None:
        """`current.max_content_length`, past Flask's two looks through `current_app`: half of what a claim costs."""
        as_flask_has_it = type(current).max_content_length is Request.max_content_length
        if as_flask_has_it and getattr(current, "_max_content_length", None) is None:
            limit: int | None = self.app.config["MAX_CONTENT_LENGTH"]
            return limit
        return current.max_content_length

    def run_in_view(self, in_force: InForce, view: Callable[[], Any]) -> Any:
        """Claim at the place of a view's decorator, under the view's policy, and run what it stands around."""
        current, policy = current_request(), in_force.policy
        environ = current.environ
        passage: Passage | None = environ.get(PASSAGE)
        if passage is not None and not passage.is_of(current):
            passage = None
        if passage is not None and passage.admitted:
            # A decorator that does not use functools.wraps hid the view's options from the hook.
            passage.policy = policy
            if passage.attempt is not None:
                passage.attempt.policy = policy
            return self.run(passage, view)
        if in_attempt(environ) or current.method not in policy.methods:
            return view()
        if passage is None:
            if in_force.lets_pass(environ) or self.views.exempts(current):
                return view()
            passage = environ[PASSAGE] = Passage(policy, place_body(environ, policy))
        answered = self.admit(current, passage)
        return self.run(passage, view) if answered is None else answered

    def run(self, passage: Passage, view: Callable[[], Any]) -> Any:
        """Run the view of an admitted request; in one transaction with its answer, where the policy says so."""
        if passage.attempt is None or passage.entered or not passage.policy.atomic:
            return view()
        passage.entered = True
        current = current_request()
        return self._atomic_views.run(passage, passage.attempt, view, lambda: rewind(current))

    def _after(self, passage: Passage, response: Response) -> Response:
        if passage.replayed is not None:
            # As it was kept, without what the blueprint's hooks did to it a second time.
            untouched = is_replay_of(passage.replayed, response)
            return response if untouched else self._replay(passage.replayed)
        attempt = passage.attempt
        if attempt is None or attempt.state is not State.RUNNING:
            return response
        held = self._conclude(passage, attempt, response)
        if attempt.policy.keep_request:
            self.request_keeping.forget(current_request(), attempt)
        if held or passage.committed:
            return response
        response.close()
        return self._refuse(problem("claim-fenced", retry_after=1), attempt.policy)

    def _conclude(self, passage: Passage, attempt: Attempt, response: Response) -> bool:
        """Write the end of the attempt; False where another attempt stands in its place."""
        policy = attempt.policy
        kept = policy.keeps(response.status_code) and not attempt.refused
        if passage.committed and not kept:
            # A hook made something else of the answer, but the work is done.
            return self.engine.complete(attempt, passage.committed_response)
        if not take_whole(response, policy.max_response_bytes):
            return self._stream(attempt, response, kept)
        if not kept:
            return self.engine.release(attempt)
        return self.engine.complete(attempt, kept_response(response, policy))

    def _stream(self, attempt: Attempt, response: Response, kept: bool) -> bool:
        if not kept:
            attempt.state = State.STREAMING
        elif not self.engine.begin_streaming(attempt):
            return False
        status, headers, policy = response.status, list(response.headers), attempt.policy

        def conclude(body: bytes | None) -> None:
            if not kept:
                self.engine.release(attempt)
            else:
                whole = None if body is None else keep(status, headers, body, policy)
                self.engine.complete(attempt, whole)

        source = response.response
        response.response = stream = WatchedStream(
            response.iter_encoded(),
            conclude,
            recording=Recording(limit=policy.max_response_bytes),
            length=response.content_length,
            close=getattr(source, "close", None),
        )

        def dropped() -> None:
            if attempt.state is State.STREAMING:
                conclude(None)

        # A hook that puts another response in the place of ours closes only its own, and the claim would be held on.
        weakref.finalize(stream, dropped).atexit = False
        return True

    def _teardown(self, passage: Passage, error: BaseException | None) -> None:
        """Give the key back where an exception passed by everything that makes responses of exceptions."""
        attempt = passage.attempt
        if attempt is None or attempt.state is not State.RUNNING:
            return
        # As by a worker's time-out. The client hears nothing, and the completer may finish it.
        torn_off = error is not None and not isinstance(error, Exception)
        if passage.committed:
            self.engine.complete(attempt, passage.committed_response)
        elif torn_off and not attempt.policy.atomic:
            self.engine.abandon(attempt)  # nobody knows how far it came, so the claim is left to lapse
        else:
            self.engine.release(attempt)
        if not torn_off:
            self.request_keeping.forget(current_request(), attempt)

    def _replay(self, kept: StoredResponse) -> Response:
        return self._response(kept.status, replay_headers(kept), kept.body)

    def refusal_of_step(self, refused: StepRefused, policy: Policy) -> HTTPException:
        """What to raise where a step may not run. It has a response of its own, so that no error handler changes it."""
        refusal = problem(refused.refusal.value, retry_after=refused.retry_after)
        return HTTPException(response=self._refuse(refusal, policy))

    def _refuse(self, refusal: Problem, policy: Policy) -> Response:
        docs_url = link_target(current_request().environ.get("SCRIPT_NAME", ""), policy.docs_url)
        return self._response(refusal.status_line, refusal.headers(docs_url), refusal.body)

    def _response(self, status: str, headers: list[tuple[str, str]], body: bytes) -> Response:
        """A response with these headers and no others."""
        # With a body, as Flask makes its own: a response class of the application's may ask for one.
        response = self.app.response_class("", status=status)
        response.response = [body]
        response.headers[:] = headers
        return response

    def _policy_page(self) -> Any:
        return answer(current_request(), self.views.published())


def current_hooks() -> Hooks:
    """The hooks of the current application. Raises `RuntimeError` where it was not initialised."""
    try:
        hooks: Hooks = current_application().extensions["idempotency"]
    except KeyError:
        raise RuntimeError("This view asks for idempotency, but the app lacks it: call Idempotency(app).") from None
    return hooks


def in_view(options: dict[str, Any], view: Callable[..., Any]) -> Callable[..., Any]:
    """`view`, claiming where its decorator stands."""

    def claiming_view(*args: Any, **kwargs: Any) -> Any:
        hooks = current_hooks()
        decorated = hooks.views.decorated(claiming_view, view, options)
        run = view if decorated.plain else hooks.app.ensure_sync(view)
        return hooks.run_in_view(decorated.in_force, partial(run, *args, **kwargs))

    return claiming_view

"""What stands around the views of a Flask application: before a view we claim, replay or refuse; after it we keep."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask, Request, Response, after_this_request
from werkzeug.exceptions import HTTPException

from ..engine.attempt import Attempt
from ..engine.engine import Engine
from ..engine.policy import Policy
from ..engine.records import StoredResponse
from ..exactly_once.steps import StepRefused
from ..http.admission import ATTEMPT, admit, in_attempt, place_body
from ..http.body import Body
from ..http.header import environ_name
from ..http.policy_page import answer
from ..http.problems import Docs, Problem, problem
from ..http.refusals import dress
from ..http.replay import replay_headers
from .atomic_views import AtomicViews
from .endings import Endings
from .passage import (
    PASSAGE,
    REFUSED,
    Passage,
    current_application,
    current_context,
    current_request,
    passage_here,
    rewind,
)
from .request_keeping import LoginAs, RequestKeeping
from .signed_in import SignedIn
from .views import InForce, ViewPolicies


class Hooks:
    """What the extension does around the views of one application. Kept in `app.extensions["idempotency"]`."""

    def __init__(
        self,
        app: Flask,
        engine: Engine,
        policy: Policy,
        docs: Docs,
        *,
        sessions: Any = None,
        login_as: LoginAs | None = None,
    ) -> None:
        self.app = app
        self.engine = engine
        self.policy = policy
        self.views = ViewPolicies(app, policy)
        self.request_keeping = RequestKeeping(app, policy, sessions, login_as)
        self._dispatch: Callable[..., Any] | None = None  # what we have put in the place of the application's own
        self._docs = docs
        self._signed_in = SignedIn(app)
        self._endings = Endings(engine, self.request_keeping, self._refuse)
        self._atomic_views = AtomicViews(app, engine, sessions, self._refuse, self._replay)

    def install(self) -> None:
        """Stand where the order of `init_app` calls cannot move us: after everyone's checks, before everyone's
        decorations.

        Authentication, CSRF and rate limits refuse first, so that a replay never goes round them; what the view has
        answered is kept; and after-request hooks act once on each response, a replay too. Registered hooks cannot give
        that order, so public methods of the application are extended.
        """
        app = self.app
        full_dispatch, teardown = app.full_dispatch_request, app.do_teardown_request

        guarded = self.views.guarded

        # What most requests are asked, those that pass by, is asked here: a call more would be felt on each.

        def full_dispatch_request(*args: Any) -> Response:
            context = current_context()
            if context.request.method in guarded:
                if app.dispatch_request is not self._dispatch:
                    # Somebody stands there since, such as Flask-DebugToolbar, and calls nobody who stood there before.
                    self._stand_before_dispatching()
                self._begin(context)
            return full_dispatch(*args)

        def do_teardown_request(*args: Any, **named: Any) -> None:
            current = current_context().request
            if current.method not in guarded or PASSAGE not in current.environ or (passage := passage_here()) is None:
                return teardown(*args, **named)
            error = named["exc"] if "exc" in named else args[-1] if args else sys.exc_info()[1]
            try:
                teardown(*args, **named)
            finally:
                # Last, and whatever others do: the key is given back.
                self._endings.tear_down(passage, error)

        self._stand_before_dispatching()
        app.full_dispatch_request = full_dispatch_request  # type: ignore[method-assign]
        app.do_teardown_request = do_teardown_request  # type: ignore[method-assign]
        if self._docs.path is not None:
            for hosts in _every_host(app):
                app.add_url_rule(self._docs.path, "idempotency_policy", self._policy_page, methods=["GET"], **hosts)

    def _stand_before_dispatching(self) -> None:
        """Claim before whoever dispatches now; where that is one of ours further in, it lets what is claimed pass."""
        dispatch, guarded = self.app.dispatch_request, self.views.guarded

        def dispatch_request(*args: Any) -> Any:
            context = current_context()
            if context.request.method not in guarded or PASSAGE not in context.request.environ:
                return dispatch(*args)
            passage = passage_here()
            if passage is None or passage.admitted or passage.in_force.decorated:
                return dispatch(*args)
            return self._claim_and_run(context.request, passage, dispatch, args)

        self._dispatch = self.app.dispatch_request = dispatch_request  # type: ignore[method-assign]

    def _begin(self, context: Any) -> None:
        """Begin the passage of a request that the policy covers, before anything reads its body."""
        current: Request = context.request
        environ = current.environ
        in_force = self.views.of(current)
        if in_force is not None:
            if in_force.optional is not None and in_force.optional not in environ:
                return
            if not (ATTEMPT in environ and in_attempt(environ)):
                environ[PASSAGE] = Passage(in_force, place_body(environ, in_force.policy), context)
        elif not self.policy.methods and environ_name(self.policy.header) in environ:
            # A decorator that does not use functools.wraps may hide a view that claims, and a hook may read first.
            place_body(environ, self.policy)

    def _claim_and_run(
        self, current: Request, passage: Passage, dispatch: Callable[..., Any], args: tuple[Any, ...]
    ) -> Any:
        """Claim for a request whose view stands under no decorator of ours, and run it."""
        answered = self._admit(current, passage)
        if answered is not None:
            return answered
        if passage.attempt is None:
            return dispatch(*args)
        try:
            if passage.in_force.policy.atomic:
                return self._run(passage, partial(dispatch, *args))
            return dispatch(*args)
        except BaseException as error:
            passage.error = error
            raise
        finally:
            # Only now: what the view itself wants done after the request comes first, and is kept.
            self._capture_later(passage)

    def claim_in_view(self, in_force: InForce, view: Callable[[], Any]) -> Any:
        """Claim at the place of a view's decorator, run what it stands around, and keep what that returned."""
        current = current_request()
        environ = current.environ
        passage: Passage | None = environ.get(PASSAGE)
        if passage is not None and not passage.is_of(current):
            passage = None
        if passage is not None and passage.admitted:
            # A decorator that does not use functools.wraps hid the view's options from the hook.
            passage.in_force = in_force
            if passage.attempt is not None:
                passage.attempt.policy = in_force.policy
            return self._run(passage, view)
        if in_attempt(environ) or current.method not in self.views.guarded:
            return view()
        if passage is None:
            if in_force.lets_pass(environ) or self.views.exempts(current):
                return view()
            placed = environ["wsgi.input"]
            if isinstance(placed, Body):  # before it was known which view this is
                body: Body | None = placed
                placed.digest_by(in_force.policy)
            else:
                body = place_body(environ, in_force.policy)
            passage = environ[PASSAGE] = Passage(in_force, body, current_context())
        answered = self._admit(current, passage)
        if answered is not None:
            return answered
        if passage.attempt is None:
            return view()
        try:
            response = self.app.make_response(self._run(passage, view))
        except BaseException as error:
            passage.error = error
            self._capture_later(passage)
            raise
        return self._endings.capture(passage, response)

    def _admit(self, current: Request, passage: Passage) -> Response | None:
        """Claim for a request. None: it may run; else what to answer instead."""
        environ, policy = current.environ, passage.in_force.policy
        passage.admitted = True
        if passage.body is None:
            # A hook may have brought the key, after we looked for it.
            passage.body = place_body(environ, policy)
        decision = admit(
            environ,
            passage.body,
            request=lambda: current,
            engine=self.engine,
            policy=policy,
            limit=self._limit(current),
            signed_in=self._signed_in,
        )
        if passage.body is not None and environ["wsgi.input"] is not passage.body:
            rewind(current)
        if isinstance(decision, Attempt):
            passage.attempt = environ[ATTEMPT] = decision
            if policy.keep_request:
                self.request_keeping.keep(current, decision)
        elif isinstance(decision, StoredResponse):
            return self._replay(decision)
        elif decision is not None:
            return self._refuse(decision, policy)
        return None

    def _limit(self, current: Request) -> int | None:
        """`current.max_content_length`, past Flask's two looks through `current_app`: half of what a claim costs."""
        as_flask_has_it = type(current).max_content_length is Request.max_content_length
        if as_flask_has_it and getattr(current, "_max_content_length", None) is None:
            limit: int | None = self.app.config["MAX_CONTENT_LENGTH"]
            return limit
        return current.max_content_length

    def _run(self, passage: Passage, view: Callable[[], Any]) -> Any:
        """Run the view of an admitted request; in one transaction with its answer, where the policy says so."""
        if passage.attempt is None or passage.entered or not passage.in_force.policy.atomic:
            return view()
        passage.entered = True
        current = current_request()
        return self._atomic_views.run(passage, passage.attempt, view, lambda: rewind(current))

    def _capture_later(self, passage: Passage) -> None:
        """Keep the answer once there is one, after what the view wants done to it, before what the application wants.

        Flask looks at the function each time, and has longer to look at a method.
        """
        capture = self._endings.capture
        after_this_request(lambda response: capture(passage, response))

    def _replay(self, kept: StoredResponse) -> Response:
        response = self._response(kept.status, replay_headers(kept), kept.body)
        # To a HEAD, a length of 0 would be a lie about what a GET gets.
        response.automatically_set_content_length = bool(kept.body)
        return response

    def refusal_of_step(self, refused: StepRefused, attempt: Attempt) -> HTTPException:
        """What to raise where a step may not run. It has a response of its own, so that no error handler changes it."""
        record_id = attempt.claim.record.id
        if refused.slug == "outcome-unknown":
            self.engine.abandon(attempt)  # until a person knows
        refusal = problem(refused.slug, record_id=record_id)
        return HTTPException(response=self._refuse(refusal, attempt.policy))

    def _refuse(self, refusal: Problem, policy: Policy) -> Response:
        environ = current_request().environ
        environ[REFUSED] = refusal.slug
        docs = self._docs.below(environ.get("SCRIPT_NAME", ""))
        response = self._response(refusal.status_line, refusal.headers(docs), refusal.document(docs))
        return dress(refusal, response, policy.refusal)

    def _response(self, status: str, headers: list[tuple[str, str]], body: bytes) -> Response:
        """A response with these headers and no others."""
        # With a body, as Flask makes its own: a response class of the application's may ask for one.
        response = self.app.response_class("", status=status)
        response.response = [body]
        response.headers[:] = headers
        return response

    def _policy_page(self, **host: str) -> Any:
        return answer(current_request(), self.views.published(), self._docs)


def _every_host(app: Flask) -> list[dict[str, Any]]:
    """The options of rules for all hosts of the application: a refusal links to the page on its own host."""
    if app.url_map.host_matching:
        return [{"host": "<host>"}]
    return [{}, {"subdomain": "<host>"}] if app.subdomain_matching else [{}]


def current_hooks() -> Hooks:
    """The hooks of the current application. Raises `RuntimeError` where it was not initialised."""
    try:
        hooks: Hooks = current_application().extensions["idempotency"]
    except KeyError:
        raise RuntimeError("This view asks for idempotency, but the app lacks it: call Idempotency(app).") from None
    return hooks


def in_view(options: dict[str, Any], view: Callable[..., Any]) -> Callable[..., Any]:
    """`view`, claiming where its decorator stands."""

    # Of the application that asked last, which is usually the only one. Weakly: a view may outlive it.
    known: tuple[Callable[[], Hooks | None], Any, Any] = (lambda: None, None, None)

    def claiming_view(*args: Any, **kwargs: Any) -> Any:
        nonlocal known
        hooks = current_hooks()
        of_hooks, in_force, run = known
        if of_hooks() is not hooks:
            # The view may be asynchronous.
            in_force, run = hooks.views.decorated(options), hooks.app.ensure_sync(view)
            known = weakref.ref(hooks), in_force, run
        environ = current_request().environ
        if in_force.lets_pass(environ) and PASSAGE not in environ:
            return run(*args, **kwargs)
        return hooks.claim_in_view(in_force, partial(run, *args, **kwargs))

    return claiming_view

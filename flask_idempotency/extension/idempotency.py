"""The extension that a Flask application installs."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any, TypeVar, overload

from flask import Flask, has_request_context, request

from ..cli import cli
from ..engine.attempt import Attempt
from ..engine.engine import Engine
from ..engine.events import Observer
from ..engine.policy import VIEW_OPTIONS, OnLapse, Policy, check_names
from ..engine.store import Store
from ..exactly_once.derived_key import derive_key
from ..exactly_once.steps import StepRefused, run_step
from ..http.admission import ATTEMPT, RESUMED, Resumed
from .hooks import Hooks, current_hooks, in_view
from .request_keeping import LoginAs
from .settings import read_docs, read_namespace, read_policy, read_store
from .signals import SignalObserver
from .views import mark

View = TypeVar("View", bound=Callable[..., Any])
Target = TypeVar("Target")


class Idempotency:
    """Makes every POST and PATCH of a Flask application safe to retry.

    `store` replaces the one that `IDEMPOTENCY_STORE_URL` names, and `policy` the rules that the configuration sets: one
    place decides. `namespace` keeps applications on one store apart; the application's import name, unless given.
    `observers` hear every event; `session` is the `scoped_session` that atomic views join, where it is not
    Flask-SQLAlchemy's. `login_as` lets a kept request that `flask idempotency complete` works on again in as the
    principal that it came from: it is called with what is known of it (`resumed`), within the request and before any
    hook, and returns the headers to enter with, or True where it has signed in by itself (`login_user(…)`); None where
    it cannot say, and the request waits. One instance may serve several applications.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        store: Store | None = None,
        policy: Policy | None = None,
        namespace: str | None = None,
        observers: Iterable[Observer] = (),
        session: Any = None,
        login_as: LoginAs | None = None,
    ) -> None:
        if login_as is not None and not callable(login_as):
            raise TypeError("login_as must be a callable of what is known of a resumed request, or None.")
        self._session = session
        self._login_as = login_as
        self._store = store
        self._policy = policy
        self._namespace = namespace
        self._observers = tuple(observers)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Install on `app`, by its configuration. Raises `PolicyError` or `ValueError` for what is wrong in it."""
        if "idempotency" in app.extensions:
            raise RuntimeError("Idempotency is already installed on this app.")
        policy = read_policy(app.config, self._policy)
        store = read_store(app.config, self._store, directory=app.instance_path)
        namespace = read_namespace(app, self._namespace)
        engine = Engine(store, namespace=namespace, observers=(*self._observers, SignalObserver(app)))
        docs = read_docs(app.config)
        hooks = app.extensions["idempotency"] = Hooks(
            app, engine, policy, docs, sessions=self._session, login_as=self._login_as
        )
        hooks.install()
        app.cli.add_command(cli)

    @property
    def attempt(self) -> Attempt | None:
        """The attempt that the current request is in; None where no key is in force."""
        attempt: Attempt | None = request.environ.get(ATTEMPT) if has_request_context() else None
        return attempt

    @property
    def resumed(self) -> Resumed | None:
        """What is known of a kept request that `flask idempotency complete` works on again; else None.

        It comes without credentials: see `login_as`, and the option `completable`.
        """
        resumed: Resumed | None = request.environ.get(RESUMED) if has_request_context() else None
        return resumed

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        on_lapse: OnLapse | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call `function` once for this operation and return its JSON result, in this attempt and in every other.

        A re-run after a crash or a failed attempt gets the kept result instead of a second charge. `on_lapse` says
        what happens where the process died within the step: `"rerun"` calls it again, `"refuse"` answers 409
        `outcome-unknown`; the view's policy, unless given. Without a key in force the function is simply called.
        """
        attempt = self.attempt
        if attempt is None:
            return function(*args, **kwargs)
        try:
            return run_step(attempt, name, function, args, kwargs, on_lapse=on_lapse)
        except StepRefused as refused:
            raise current_hooks().refusal_of_step(refused, attempt) from refused

    def derive_key(self, name: str) -> str:
        """A key for a call to another service: `headers={"Idempotency-Key": idempotency.derive_key("charge")}`.

        The same in every attempt at this operation; without a key in force, a new one each time.
        """
        attempt = self.attempt
        return str(uuid.uuid4()) if attempt is None else derive_key(attempt, name)

    @overload
    def view(self, function: View, /) -> View: ...

    @overload
    def view(self, /, **options: Any) -> Callable[[View], View]: ...

    def view(self, function: Any = None, /, **options: Any) -> Any:
        """Give a view options of its own, and claim at the decorator's place: below `@login_required`, after it.

        The options are those of `Policy` that a view may have of its own; what they leave open is the application's.
        """
        # An option that is wrong raises here, where it is written.
        check_names(options, known=VIEW_OPTIONS)
        Policy(**options)

        def decorate(view: View) -> View:
            if isinstance(view, type):
                raise TypeError("For a view class, write in it: decorators = [idempotency.view(…)].")
            if not callable(view):
                raise TypeError("@idempotency.view decorates views; its options have names, such as retention=3600.")
            claiming_view = functools.wraps(view)(in_view(options, view))
            return mark(claiming_view, options)  # type: ignore[return-value]

        return decorate if function is None else decorate(function)

    def exempt(self, target: Target) -> Target:
        """Leave a view function, a view class or a blueprint alone."""
        if isinstance(target, MethodType):
            # A bound method takes no mark, but this does, and Flask sees through it whether it is asynchronous.
            bound: Any = functools.update_wrapper(functools.partial(target), target)
            return mark(bound, None)  # type: ignore[no-any-return]
        return mark(target, None)

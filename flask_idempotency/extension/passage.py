"""One request's way through the hooks."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from flask import Flask, Request, Response, current_app, request
from flask import globals as flask_globals

from ..engine.attempt import Attempt
from ..engine.records import StoredResponse
from ..http.body import Body
from .views import InForce

#: Where the environ carries the passage of the request.
PASSAGE = "flask_idempotency.passage"

#: Where the environ carries which of our refusals the request was answered with.
REFUSED = "flask_idempotency.refused"


#: The request and the application themselves: each look through Flask's proxies costs as much as ten at what is behind.
current_request: Callable[[], Request] = request._get_current_object  # type: ignore[attr-defined]
current_application: Callable[[], Flask] = current_app._get_current_object  # type: ignore[attr-defined]

# The context that has the request. Flask 3.2 makes one of the two.
current_context: Callable[[], Any] = vars(flask_globals).get("request_ctx", flask_globals.app_ctx)._get_current_object


class Committed(NamedTuple):
    """How an atomic view has committed: whatever happens to the response on its way, its rows stand.

    `kept`: it is done, and `response` is its answer (None: a tombstone). Else its key is given back.
    """

    kept: bool
    response: StoredResponse | None


class Passage:
    """What the hooks know of the request."""

    admitted = False
    attempt: Attempt | None = None
    error: BaseException | None = None  # what the view has raised
    streamed: Response | None = None  # what is on its way to the client, if it is a stream
    entered = False  # an atomic view is under way
    committed: Committed | None = None

    def __init__(self, in_force: InForce, body: Body | None, context: Any) -> None:
        self.in_force = in_force
        self.body = body
        self.context = weakref.ref(context)

    def is_of(self, current: Request) -> bool:
        """Whether it is that of this request, in whatever thread; not of another under the same environ."""
        context = self.context()
        return context is not None and context.request is current


def passage_here() -> Passage | None:
    """The passage of the request whose context this is, if it has one.

    A copy of the context, as `copy_current_request_context` makes for a thread, ends before the request does; and a
    view may ask an application under the environ of its own request. Neither has an answer to the request.
    """
    try:
        context = current_context()
        passage: Passage | None = context.request.environ.get(PASSAGE)
    except RuntimeError:  # there is no request
        return None
    return passage if passage is not None and passage.context() is context else None


def rewind(current: Request) -> None:
    """Let the body, which was read as a whole, be read again from its beginning."""
    current.environ["wsgi.input"].seek(0)
    if "stream" in current.__dict__:
        # Flask makes another one, within the limits that are set by then.
        del current.__dict__["stream"]

"""One request's way through the hooks, and what of its response can be kept."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from flask import Flask, Request, Response, current_app, request
from flask import globals as flask_globals

from ..engine.attempt import Attempt
from ..engine.policy import Policy
from ..engine.records import StoredResponse
from ..http.body import Body
from ..http.replay import keep, promised_length, replay_headers

#: Where the environ carries the passage of the request.
PASSAGE = "flask_idempotency.passage"


#: The request and the application themselves: each look through Flask's proxies costs as much as ten at what is behind.
current_request: Callable[[], Request] = request._get_current_object  # type: ignore[attr-defined]
current_application: Callable[[], Flask] = current_app._get_current_object  # type: ignore[attr-defined]

# The context that has the request. Flask 3.2 makes one of the two.
_current_context: Callable[[], Any] = vars(flask_globals).get("request_ctx", flask_globals.app_ctx)._get_current_object


class Passage:
    """What the hooks know of the request."""

    admitted = False
    attempt: Attempt | None = None
    replayed: StoredResponse | None = None
    entered = False  # an atomic view is under way
    # It has committed: whatever happens to the response on its way, the work is done.
    committed = False
    committed_response: StoredResponse | None = None

    def __init__(self, policy: Policy, body: Body | None) -> None:
        self.policy = policy
        self.body = body
        self.context = weakref.ref(_current_context())

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
        context = _current_context()
        passage: Passage | None = context.request.environ.get(PASSAGE)
    except RuntimeError:  # there is no request
        return None
    return passage if passage is not None and passage.context() is context else None


def rewind(current: Request) -> None:
    """Let the body, which was read as a whole, be read again from its beginning."""
    current.environ["wsgi.input"].seek(0)
    # Flask makes another stream of it, within the limits that are set by then.
    current.__dict__.pop("stream", None)


def take_whole(response: Response, limit: int) -> bool:
    """Make the body one that is at hand, where it is known to be small enough; else it is a stream.

    The responses that Flask makes of exceptions are iterators with a known length, as are files that are sent.
    """
    if not isinstance(response.response, list | tuple):
        if response.status_code in (204, 304):  # nobody would ask for its body, and so never see the end of it
            response.call_on_close(getattr(response.response, "close", lambda: None))
            response.response = []
            return True
        length = response.content_length
        if length is None or length > limit:
            return False
        response.direct_passthrough = False
        response.make_sequence()
    return True


def kept_response(response: Response, policy: Policy) -> StoredResponse | None:
    """What is kept of a response whose body is at hand; None (a tombstone) where it is too large or not whole."""
    chunks = response.response
    # As almost all are; what is text is encoded only on its way out.
    one = isinstance(chunks, list) and len(chunks) == 1 and isinstance(chunks[0], bytes)
    body: bytes = chunks[0] if one else response.get_data()  # type: ignore[index]
    if len(body) > policy.max_response_bytes or promised_length(response.headers) not in (None, len(body)):
        return None
    return keep(response.status, response.headers, body, policy)


def is_replay_of(kept: StoredResponse, response: Response) -> bool:
    """Whether the response is still as it was made of what is kept."""
    return (
        response.status == kept.status
        and response.response == [kept.body]
        and list(response.headers) == replay_headers(kept)
    )

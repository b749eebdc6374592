"""One request's way through the hooks, and what of its response can be kept."""

from __future__ import annotations

from flask import Request, Response

from ..engine.attempt import Attempt
from ..engine.policy import Policy
from ..engine.records import StoredResponse
from ..http.body import Body
from ..http.replay import keep

#: Where the environ carries the passage of the request.
PASSAGE = "flask_idempotency.passage"


class Passage:
    """What the hooks know of the request."""

    __slots__ = ("admitted", "attempt", "body", "committed", "committed_response", "entered", "policy", "replayed")

    def __init__(self, policy: Policy, body: Body | None) -> None:
        self.policy = policy
        self.body = body
        self.admitted = False
        self.attempt: Attempt | None = None
        self.replayed: StoredResponse | None = None
        self.entered = False  # an atomic view is under way
        # It has committed: whatever happens to the response on its way, the work is done.
        self.committed = False
        self.committed_response: StoredResponse | None = None


def rewind(request: Request) -> None:
    """Let the body, which was read as a whole, be read again from its beginning."""
    request.environ["wsgi.input"].seek(0)
    # Flask makes another stream of it, within the limits that are set by then.
    request.__dict__.pop("stream", None)


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
    body = response.get_data()
    if len(body) > policy.max_response_bytes or response.content_length not in (None, len(body)):
        return None
    return keep(response.status, response.headers, body, policy)

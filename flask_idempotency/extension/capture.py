"""What of a view's response can be kept."""

from flask import Response

from ..engine.policy import Policy
from ..engine.records import StoredResponse
from ..http.replay import keep, promised_length


def take_whole(response: Response, limit: int) -> bool:
    """Make a body that is an iterator one that is at hand, where it is known to be small enough; else it is a stream.

    The responses that Flask makes of exceptions are iterators with a known length, as are files that are sent.
    """
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

"""What of a view's response can be kept."""

from itertools import chain

from flask import Response

from ..engine.policy import Policy
from ..engine.records import StoredResponse
from ..http.replay import keep, promised_length
from ..http.stream import Closing
from .passage import current_request


def take_whole(response: Response, limit: int) -> bool:
    """Make a body that is an iterator one that is at hand, where it is known to be small enough; else it is a stream.

    The responses that Flask makes of exceptions are iterators with a known length, as are files that are sent.
    """
    close = getattr(response.response, "close", lambda: None)
    if response.status_code in (204, 304) or current_request().method == "HEAD":
        # Nobody would ask for its body, and so never see the end of it, or its length.
        response.call_on_close(close)
        response.response = []
        response.automatically_set_content_length = False
        return True
    length = response.content_length
    if length is None or length > limit:
        return False
    response.direct_passthrough = False
    chunks, size = response.iter_encoded(), 0
    taken: list[bytes] = []
    for chunk in chunks:
        taken.append(chunk)
        size += len(chunk)
        if size > limit:  # the length that it promised is a lie, and it may have no end
            response.response = Closing(chain(taken, chunks), close)
            return False
    response.response = taken
    response.call_on_close(close)
    return True


def kept_response(response: Response, policy: Policy) -> StoredResponse | None:
    """What is kept of a response whose body is at hand; None (a tombstone) where it is too large or not whole."""
    chunks = response.response
    # As almost all are; what is text is encoded only on its way out.
    one = isinstance(chunks, list) and len(chunks) == 1 and isinstance(chunks[0], bytes)
    body: bytes = chunks[0] if one else response.get_data()  # type: ignore[index]
    if len(body) > policy.max_response_bytes:
        return None
    if promised_length(response.headers) not in (None, len(body)) and current_request().method != "HEAD":
        return None
    return keep(response.status, response.headers, body, policy)

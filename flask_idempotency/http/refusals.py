"""Refusals as the application wants them to look."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from werkzeug import Response as WSGIResponse
from werkzeug.sansio.response import Response

from .problems import Docs, Problem

logger = logging.getLogger("flask_idempotency")

AnyResponse = TypeVar("AnyResponse", bound=Response)


def dress(refusal: Problem, response: AnyResponse, by: Callable[..., Any] | None) -> AnyResponse:
    """What `by` (the policy's `refusal`) makes of the response to a refusal; as it is, where that fails.

    A refusal is returned, never raised: nothing that an application does to its looks may let the request run.
    """
    if by is None:
        return response
    try:
        dressed = by(refusal, response)
    except Exception:  # whatever the application does
        logger.exception("A refusal could not be dressed.")
        return response
    if not isinstance(dressed, type(response)):
        logger.error("The option refusal must return a response, not %s.", type(dressed).__qualname__)
        return response
    return dressed


def dressed(refusal: Problem, docs: Docs, by: Callable[..., Any]) -> WSGIResponse:
    """The response to a refusal for those that have no response class of their own, as `by` wants it to look."""
    response = WSGIResponse(refusal.document(docs), status=refusal.status_line)
    response.headers[:] = refusal.headers(docs)
    return dress(refusal, response, by)

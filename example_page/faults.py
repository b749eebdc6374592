"""A network and a worker that fail as each request wishes, so that a page can show what comes of it."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import Flask, has_request_context, request
from werkzeug.test import run_wsgi_app
from werkzeug.wsgi import get_input_stream

from flask_idempotency.engine.events import Event, Outcome
from flask_idempotency.extension import signals
from flask_idempotency.http.admission import ATTEMPT

from .timeline import SIDES, Timeline

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: How long the slow server takes, in seconds.
SLOW = 1.6

_PASSAGE = "example_page.passage"


@dataclass(frozen=True, slots=True)
class Passage:
    """One request of the page, and the fault that it meets."""

    timeline: Timeline
    run: str
    side: str
    attempt: int
    fault: str

    def tell(self, what: str, detail: int | None = None) -> None:
        """Note what happened to it."""
        self.timeline.tell(self.run, self.side, self.attempt, what, detail)


class WorkerDied(BaseException):
    """Tears a handler off, as a worker's time-out does: no error handler answers, and the claim is left to lapse."""


class FaultyNetwork:
    """What lies between the page and the shop, outside everything that knows of keys.

    The headers `Page-Run`, `Page-Side`, `Page-Attempt` and `Page-Fault` say whose request it is and what befalls it.
    Any other request passes. A cut is a real one where the server hands out its socket, as the dev server and gunicorn
    do: the connection ends without an answer. Elsewhere the server says 500, and the answer is lost as well.
    """

    def __init__(self, shop: WSGIApplication, timeline: Timeline) -> None:
        self._shop = shop
        self._timeline = timeline

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        passage = self._passage(environ)
        if passage is None:
            return self._shop(environ, start_response)
        if passage.fault == "lost-request":
            passage.tell("request-lost")
            # What stayed unread, the dev server would take for the next request.
            get_input_stream(environ).read()
            raise _cut(environ)
        environ[_PASSAGE] = passage
        passage.timeline.count(passage.run, 1)
        try:
            return self._pass(passage, environ, start_response)
        finally:
            passage.timeline.count(passage.run, -1)

    def _pass(self, passage: Passage, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        passage.tell("arrived")
        try:
            body, status, headers = run_wsgi_app(self._shop, environ, buffered=True)
        except WorkerDied:
            raise _cut(environ) from None
        if passage.fault == "lost-answer":
            passage.tell("answer-lost", int(status[:3]))
            raise _cut(environ)
        passage.tell("answered", int(status[:3]))
        start_response(status, list(headers))
        return body

    def _passage(self, environ: WSGIEnvironment) -> Passage | None:
        run, side = environ.get("HTTP_PAGE_RUN", ""), environ.get("HTTP_PAGE_SIDE", "")
        attempt = environ.get("HTTP_PAGE_ATTEMPT", "")
        if not self._timeline.knows(run) or side not in SIDES or not (attempt.isdecimal() and len(attempt) < 4):
            return None
        return Passage(self._timeline, run, side, int(attempt), environ.get("HTTP_PAGE_FAULT", ""))


def _cut(environ: WSGIEnvironment) -> ConnectionResetError:
    """End the connection; what is returned is to be raised, so that the server gives up on it, too."""
    connection: socket.socket | None = environ.get("werkzeug.socket") or environ.get("gunicorn.socket")
    if connection is not None:
        # The browser may have been the first to go.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    # The errno by which servers know a client that went away, of which they make no fuss.
    return ConnectionResetError(errno.ECONNRESET, "The faulty network cut the connection.")


def make_frail(shop: Flask, endpoint: str) -> None:
    """Let the worker of a view be slow, or die once its money has moved, where the request wishes so."""
    view: Callable[..., Any] = shop.view_functions[endpoint]

    # Without functools.wraps, so that the extension sees no decorator of the view's: it claims before the worker is
    # slow, and what is within is the transaction alone.
    def frail(*args: Any, **kwargs: Any) -> Any:
        passage: Passage | None = request.environ.get(_PASSAGE)
        if passage is None:
            return view(*args, **kwargs)
        if passage.fault == "slow":
            passage.tell("working", int(SLOW * 1000))
            time.sleep(SLOW)
        answer = shop.make_response(view(*args, **kwargs))
        if answer.status_code != 201:
            return answer
        transfer = answer.get_json()
        if passage.timeline.is_new(passage.run, transfer["id"]):
            passage.tell("moved", transfer["amount"])
        else:
            passage.tell("moved-before", transfer["amount"])
        if passage.fault == "crash":
            passage.tell("died")
            _leave_claim(shop)
            raise WorkerDied
        return answer

    shop.view_functions[endpoint] = frail


def _leave_claim(shop: Flask) -> None:
    """Leave the claim as a killed process does: nobody renews it, and nothing keeps the answer in the store."""
    attempt = request.environ.get(ATTEMPT)
    if attempt is not None:
        shop.extensions["idempotency"].engine.let_lapse(attempt)


def observe(shop: Flask) -> Callable[..., None]:
    """Note what the extension does with the requests of the page. Listens for as long as what it returns is kept."""

    def listen(sender: Flask, event: Event) -> None:
        passage: Passage | None = request.environ.get(_PASSAGE) if has_request_context() else None
        if passage is not None:
            passage.tell(event.outcome.value)

    for outcome in Outcome:
        getattr(signals, outcome.name.lower()).connect(listen, sender=shop)
    return listen

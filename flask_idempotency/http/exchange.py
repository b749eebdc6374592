"""One run of a WSGI application under a claim: its response is recorded before its first byte leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..engine.attempt import Attempt, State
from ..engine.engine import End, Engine
from ..engine.policy import Policy
from .ends import instead_of_answer
from .problems import Problem
from .replay import keep, promised_length
from .stream import Closing, Recording, WatchedStream

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: Answers with a problem instead.
Refuse = Callable[[Problem], Iterable[bytes]]


class _Head:
    """What the application said to start_response, and what follows from it."""

    __slots__ = ("code", "headers", "kept", "length", "may_be_held", "status")

    def __init__(self, status: str, headers: list[tuple[str, str]], policy: Policy) -> None:
        self.code = code = int(status[:3])
        self.status = status
        self.headers = headers
        self.kept = policy.keeps(code)
        self.length = 0 if code in (204, 304) else promised_length(headers)  # of the body; None where nobody says
        self.may_be_held = self.length is not None and self.length <= policy.max_response_bytes


class Exchange:
    """Stands between a server and an application for one request (PEP 3333).

    A response that is at hand, or whose length is known and small enough, is held back until the end of the attempt is
    written. Any other is streamed: the record says so before its first byte leaves, and the response is kept once it
    has ended whole.
    """

    __slots__ = (
        "_attempt",
        "_bodiless",
        "_closed",
        "_engine",
        "_head",
        "_held",
        "_held_bytes",
        "_policy",
        "_recording",
        "_refuse",
        "_server_start",
        "_server_write",
        "_unsent",
    )

    _recording: Recording  # of what streams

    def __init__(self, attempt: Attempt, engine: Engine, start_response: StartResponse, refuse: Refuse) -> None:
        self._attempt = attempt
        self._policy = attempt.policy
        self._engine = engine
        self._server_start = start_response
        self._refuse = refuse
        self._head: _Head | None = None
        self._server_write: Callable[[bytes], object] | None = None  # set once the server knows the head
        self._held: list[bytes] = []  # what the application gave and the server has not seen
        self._held_bytes = 0
        self._unsent: Problem | None = None  # what is said instead of the response
        self._closed = False
        self._bodiless = False

    def run(self, app: WSGIApplication, environ: WSGIEnvironment) -> Iterable[bytes]:
        """Call the application and return what the server shall send."""
        self._bodiless = environ["REQUEST_METHOD"] == "HEAD"
        chunks: Iterable[bytes] = ()
        try:
            chunks = app(environ, self._start_response)
            return self._answer(chunks)
        except BaseException as error:
            try:
                self._close(chunks)
            finally:
                self._break_off(error)
            raise

    def _break_off(self, error: BaseException) -> None:
        if self._attempt.state is State.ANSWERING or (self._server_write and self._attempt.state is State.RUNNING):
            self._conclude(None)
        elif self._attempt.state is State.RUNNING:
            # An error says that the handler ended. Being torn off says nothing: the claim is left to lapse.
            end = self._engine.fail if isinstance(error, Exception) else self._engine.let_lapse
            end(self._attempt)

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        if exc_info is not None and self._server_write is not None:
            # Too late for another head: the server raises what exc_info holds. One that has sent no byte yet takes it.
            self._server_write = self._server_start(status, list(headers), exc_info)
            self._head = _Head(status, headers, self._policy)
            return self._write
        if self._head is not None and exc_info is None:
            raise AssertionError("start_response was called a second time, without exc_info")
        self._head = _Head(status, headers, self._policy)
        # What belonged to the head before goes with it: nobody has seen either.
        self._held.clear()
        self._held_bytes = 0
        return self._write

    def _write(self, data: bytes) -> None:
        if self._unsent is not None:
            return
        if self._server_write is None:
            if self._known_head().may_be_held and self._held_bytes + len(data) <= self._policy.max_response_bytes:
                self._hold(data)
                return
            self._begin_stream()
        if self._unsent is None:
            self._send(data)

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)

    def _send(self, data: bytes) -> None:
        assert self._server_write is not None
        self._server_write(data)
        self._recording.take(data)

    def _answer(self, chunks: Iterable[bytes]) -> Iterable[bytes]:
        pulled: list[bytes] = []
        # Not looked into without need: a file wrapper of the server's own stays as it is, so that it can send the file
        # by itself.
        rest = chunks
        if self._head is None:
            rest = iter(chunks)
            pulled = self._pull_head(rest)
        if self._server_write is None and self._unsent is None:
            head = self._known_head()
            if isinstance(chunks, list | tuple):
                body = [*self._held, *chunks] if self._held else chunks
                whole = b"".join(body) if sum(map(len, body)) <= self._policy.max_response_bytes else None
                return self._pass_on(head, body, chunks, end=self._record(head, whole))
            if head.may_be_held:
                return self._take(pulled, iter(rest), chunks)
            if head.kept and head.length is not None:
                untouched = not self._held and not pulled
                end = self._engine.complete(self._attempt, None)
                all_of_it = rest if untouched else chain(self._held, pulled, rest)
                return self._pass_on(head, all_of_it, chunks, end=end)
            self._begin_stream()
        if self._unsent is not None:
            return self._answer_instead(chunks, self._unsent)
        return WatchedStream(
            chain(pulled, rest),
            self._conclude,
            recording=self._recording,
            length=self._known_head().length,
            close=partial(self._close, chunks),
        )

    def _pull_head(self, rest: Iterator[bytes]) -> list[bytes]:
        """Take as many chunks as it needs for the head to be known: an application may be a generator."""
        pulled: list[bytes] = []
        for chunk in rest:
            pulled.append(chunk)
            if self._head is not None:
                break
        if self._head is None:
            raise AssertionError("the application answered without start_response")
        return pulled

    def _take(self, pulled: list[bytes], rest: Iterator[bytes], chunks: Iterable[bytes]) -> Iterable[bytes]:
        """Take the whole body, write the end of the attempt, and only then let the response go."""
        limit = self._policy.max_response_bytes
        for chunk in chain(pulled, rest) if pulled else rest:
            self._hold(chunk)
            if self._held_bytes > limit:
                head = self._known_head()
                end = self._record(head, None)
                return self._pass_on(head, chain((b"".join(self._held),), rest), chunks, end=end)
        head = self._known_head()  # only now: a generator may have put another in the place of its first
        whole = b"".join(self._held)
        return self._pass_on(head, (whole,) if whole else (), chunks, end=self._record(head, whole))

    def _record(self, head: _Head, whole: bytes | None) -> End:
        """Write the end of the attempt, with the whole body or None where it is too large."""
        if not head.kept:
            return self._end_unkept(head)
        if whole is None or not (self._bodiless or head.length is None or head.length == len(whole)):
            return self._engine.complete(self._attempt, None)
        return self._engine.complete(self._attempt, keep(head.status, head.headers, whole, self._policy))

    def _pass_on(self, head: _Head, body: Iterable[bytes], chunks: Iterable[bytes], *, end: End) -> Iterable[bytes]:
        """Let the response go, now that its end is written; or what is said instead, where it is not."""
        if end is not End.WRITTEN and (instead := instead_of_answer(end, self._attempt, kept=head.kept)):
            return self._answer_instead(chunks, instead)
        self._server_write = self._start_server(head)
        if body is chunks or not hasattr(chunks, "close"):
            return body
        return Closing(body, partial(self._close, chunks))

    def _begin_stream(self) -> None:
        head = self._known_head()
        if head.kept:
            end = self._engine.answering(self._attempt)
            self._unsent = instead_of_answer(end, self._attempt, kept=True)
            if self._unsent is not None:
                if end is not End.FENCED:  # it was done, and what it answers is lost
                    self._engine.complete(self._attempt, None)
                return
        self._recording = Recording(limit=self._policy.max_response_bytes)
        self._server_write = self._start_server(head)
        for data in self._held:
            self._send(data)
        self._held.clear()

    def _start_server(self, head: _Head) -> Callable[[bytes], object]:
        # A list of its own, since the server may change it (PEP 3333).
        return self._server_start(head.status, list(head.headers))

    def _answer_instead(self, chunks: Iterable[bytes], instead: Problem) -> Iterable[bytes]:
        """Answer that another attempt counts, or that this one's answer could not be stored."""
        self._close(chunks)
        return self._refuse(instead)

    def _close(self, chunks: Iterable[bytes]) -> None:
        close = getattr(chunks, "close", None)
        if close is not None and not self._closed:
            self._closed = True
            close()

    def _conclude(self, body: bytes | None) -> None:
        """Write the end of a streamed response: whole, or None where it is too large or broke off."""
        head = self._known_head()
        if head.kept or self._attempt.state is State.ANSWERING:
            whole = head.kept and body is not None
            kept = keep(head.status, head.headers, body or b"", self._policy) if whole else None
            self._engine.complete(self._attempt, kept)
        else:
            self._end_unkept(head)

    def _end_unkept(self, head: _Head) -> End:
        end = self._engine.fail if head.code >= 500 else self._engine.release
        return end(self._attempt)

    def _known_head(self) -> _Head:
        assert self._head is not None
        return self._head

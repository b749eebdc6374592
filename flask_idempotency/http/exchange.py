"""One run of a WSGI application under a claim: its response is recorded before its first byte leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..engine.attempt import Attempt, State
from ..engine.engine import End, Engine
from ..engine.policy import Policy
from .problems import Problem, problem
from .replay import keep, promised_length
from .stream import Closing, Recording, WatchedStream

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class _Head:
    """What the application said to start_response, and what follows from it."""

    __slots__ = ("headers", "kept", "length", "may_be_held", "status")

    def __init__(self, status: str, headers: list[tuple[str, str]], policy: Policy) -> None:
        code = int(status[:3])
        self.status = status
        self.headers = headers
        self.kept = policy.keeps(code)
        self.length = 0 if code in (204, 304) else promised_length(headers)  # of the body; None where nobody says
        self.may_be_held = self.length is not None and self.length <= policy.max_response_bytes


class Exchange:
    """Stands between a server and an application for one request (PEP 3333).

    A response whose length is known and small enough is held back until the end of the attempt is written. Any other
    is streamed: a tombstone is left before its first byte, and the response is kept once it has ended whole.
    """

    _head: _Head | None = None
    _server_write: Callable[[bytes], object] | None = None  # set once the server knows the head
    _held_bytes = 0
    _tombstone = False  # it stands, and cannot be taken back
    _fenced = False
    _closed = False
    _recording: Recording  # of what streams

    def __init__(self, attempt: Attempt, engine: Engine, start_response: StartResponse) -> None:
        self._attempt = attempt
        self._policy = attempt.policy
        self._engine = engine
        self._server_start = start_response
        self._held: list[bytes] = []  # what the application gave and the server has not seen

    def run(self, app: WSGIApplication, environ: WSGIEnvironment) -> Iterable[bytes]:
        """Call the application and return what the server shall send."""
        # As the server made it: the application may change it on its way through itself.
        self._script_name = environ.get("SCRIPT_NAME", "")
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
        if self._attempt.state is State.STREAMING:
            self._conclude(None)
        elif self._attempt.state is State.RUNNING:
            # An error says that the handler ended. Being torn off says nothing: the claim is left to lapse.
            end = self._engine.release if isinstance(error, Exception) else self._engine.abandon
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
        if self._fenced:
            return
        if self._server_write is None:
            if self._known_head().may_be_held and self._held_bytes + len(data) <= self._policy.max_response_bytes:
                self._hold(data)
                return
            self._begin_stream()
        if not self._fenced:
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
        if self._server_write is None and not self._fenced:
            head = self._known_head()
            if isinstance(chunks, list | tuple):
                body = [*self._held, *chunks] if self._held else chunks
                whole = b"".join(body) if sum(map(len, body)) <= self._policy.max_response_bytes else None
                return self._pass_on(head, body, chunks, written=self._record(head, whole))
            if head.may_be_held:
                return self._take(pulled, iter(rest), chunks)
            if head.kept and head.length is not None:
                untouched = not self._held and not pulled
                written = self._engine.complete(self._attempt, None)
                all_of_it = rest if untouched else chain(self._held, pulled, rest)
                return self._pass_on(head, all_of_it, chunks, written=written)
            self._begin_stream()
        if self._fenced:
            return self._fence(chunks)
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
                written = self._record(head, None)
                return self._pass_on(head, chain((b"".join(self._held),), rest), chunks, written=written)
        head = self._known_head()  # only now: a generator may have put another in the place of its first
        whole = b"".join(self._held)
        return self._pass_on(head, (whole,) if whole else (), chunks, written=self._record(head, whole))

    def _record(self, head: _Head, whole: bytes | None) -> bool:
        """Write the end of the attempt, with the whole body or None where it is too large; False means fenced."""
        if not head.kept:
            return self._engine.release(self._attempt)
        if whole is None or not (self._bodiless or head.length in (None, len(whole))):
            return self._engine.complete(self._attempt, None)
        return self._engine.complete(self._attempt, keep(head.status, head.headers, whole, self._policy))

    def _pass_on(
        self, head: _Head, body: Iterable[bytes], chunks: Iterable[bytes], *, written: bool
    ) -> Iterable[bytes]:
        """Let the response go, now that its end is written; or not, where that showed another attempt in its place."""
        if not written:
            return self._fence(chunks)
        self._server_write = self._start_server(head)
        if body is chunks or not hasattr(chunks, "close"):
            return body
        return Closing(body, partial(self._close, chunks))

    def _begin_stream(self) -> None:
        head = self._known_head()
        if head.kept and not self._engine.begin_streaming(self._attempt):
            self._fenced = True
            return
        self._tombstone = head.kept
        self._recording = Recording(limit=self._policy.max_response_bytes)
        self._attempt.state = State.STREAMING
        self._server_write = self._start_server(head)
        for data in self._held:
            self._send(data)
        self._held.clear()

    def _start_server(self, head: _Head) -> Callable[[bytes], object]:
        # A list of its own, since the server may change it (PEP 3333).
        return self._server_start(head.status, list(head.headers))

    def _fence(self, chunks: Iterable[bytes]) -> Iterable[bytes]:
        """Answer that another attempt counts, not this one."""
        self._close(chunks)
        fenced = problem("claim-fenced")
        self._server_start(fenced.status_line, fenced.headers(link_target(self._script_name, self._policy.docs_url)))
        return [fenced.body]

    def _close(self, chunks: Iterable[bytes]) -> None:
        close = getattr(chunks, "close", None)
        if close is not None and not self._closed:
            self._closed = True
            close()

    def _conclude(self, body: bytes | None) -> None:
        head = self._known_head()
        if not head.kept and not self._tombstone:
            self._engine.release(self._attempt)
        elif not head.kept or body is None:
            self._engine.complete(self._attempt, None)
        else:
            self._engine.complete(self._attempt, keep(head.status, head.headers, body, self._policy))

    def _known_head(self) -> _Head:
        assert self._head is not None
        return self._head

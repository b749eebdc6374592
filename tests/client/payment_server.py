"""A small server that takes payments, remembers what it was sent, and answers as it is told to."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

type_json = ("Content-Type", "application/json")


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came in."""

    method: str
    path: str
    key: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Canned:
    """An answer that the server gives instead of taking the payment."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b"{}"

    @classmethod
    def problem(cls, status: int, slug: str, *headers: tuple[str, str]) -> Self:
        """A refusal as flask_idempotency words it."""
        body = json.dumps({"type": f"urn:flask-idempotency:{slug}", "title": slug, "status": status}).encode()
        return cls(status, (("Content-Type", "application/problem+json"), *headers), body)


class Till:
    """A WSGI app: each request without a canned answer is a payment, done once for each key.

    With `remembers=False` it is the server that idempotency keys were invented against.
    """

    def __init__(self, *, remembers: bool = True) -> None:
        self._remembers = remembers
        self._lock = threading.Lock()
        self._done: dict[str, bytes] = {}
        self.canned: deque[Canned] = deque()
        self.seen: list[Seen] = []
        self.charges: list[bytes] = []

    @property
    def keys(self) -> list[str | None]:
        return [request.key for request in self.seen]

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = _body(environ)
        key = environ.get("HTTP_IDEMPOTENCY_KEY")
        with self._lock:
            self.seen.append(Seen(environ["REQUEST_METHOD"], environ["PATH_INFO"], key, body))
            answer = self.canned.popleft() if self.canned else self._pay(key, body)
        start_response(f"{answer.status} Answer", [*answer.headers, ("Content-Length", str(len(answer.body)))])
        return [answer.body]

    def _pay(self, key: str | None, body: bytes) -> Canned:
        if self._remembers and key in self._done:
            return Canned(201, (type_json, ("Idempotent-Replayed", "true")), self._done[key])
        self.charges.append(body)
        receipt = json.dumps({"charge": len(self.charges)}).encode()
        if key is not None:
            self._done[key] = receipt
        return Canned(201, (type_json,), receipt)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are this suite's daily bread."""


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Running:
    """A WSGI app behind a real socket, until the block ends. `app` may be changed between two requests."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._server = make_server(
            "127.0.0.1",
            0,
            lambda environ, start_response: self.app(environ, start_response),
            server_class=_Server,
            handler_class=_Quiet,
        )
        self.address: tuple[str, int] = ("127.0.0.1", self._server.server_port)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _body(environ: dict[str, Any]) -> bytes:
    stream = environ["wsgi.input"]
    if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
        return b"".join(_chunks(stream))
    return bytes(stream.read(int(environ.get("CONTENT_LENGTH") or 0)))


def _chunks(stream: Any) -> Iterator[bytes]:
    # wsgiref leaves chunked bodies to the app.
    while size := int(stream.readline(), 16):
        yield stream.read(size)
        stream.readline()
    stream.readline()

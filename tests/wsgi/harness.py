"""A server as strict as PEP 3333, with its validator around the middleware and inside it."""

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from flask_idempotency import IdempotencyMiddleware, Policy
from flask_idempotency.engine.engine import Engine
from flask_idempotency.engine.heartbeat import heartbeat
from flask_idempotency.stores import MemoryStore

TEXT = ("Content-Type", "text/plain")


@dataclass(slots=True)
class Answer:
    """What a client heard, and what the server did for it, in order."""

    status: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    log: list[str] = field(default_factory=list)

    @property
    def code(self) -> int:
        return int(self.status[:3])

    @property
    def replayed(self) -> bool:
        return ("Idempotent-Replayed", "true") in self.headers

    @property
    def problem(self) -> str:
        """The slug of the problem that was answered."""
        assert dict(self.headers)["Content-Type"] == "application/problem+json", (self.status, self.body)
        return str(json.loads(self.body)["type"].removeprefix("urn:flask-idempotency:").rpartition("#")[2])


def note(patch: pytest.MonkeyPatch, log: list[str], **names: str) -> None:
    """Let the engine's methods `names` note in `log` when they are called, each by the word given for it."""
    for name, word in names.items():
        method = getattr(Engine, name)

        def noting(*arguments: Any, method: Any = method, word: str = word) -> Any:
            log.append(word)
            return method(*arguments)

        patch.setattr(Engine, name, noting)


class Harness:
    """Serves an application behind the middleware, one request at a time.

    `log` takes what happens in order: the server notes `start`, `send` and `write`, and applications what they like.
    """

    def __init__(self, app: Any, *, inner: bool = True, outer: bool = True, middleware: Any = None, **policy: Any):
        self.store = MemoryStore()
        self.log: list[str] = []
        self.runs = 0

        def counting(environ: Any, start_response: Any) -> Iterable[bytes]:
            self.runs += 1
            chunks: Iterable[bytes] = app(environ, start_response)
            return chunks

        wrapped = validator(counting) if inner else counting
        made = middleware(wrapped) if middleware else None
        docs = {name: policy.pop(name) for name in ("docs_url", "docs_path") if name in policy}
        self.middleware = made or IdempotencyMiddleware(wrapped, store=self.store, policy=Policy(**policy), **docs)
        self.served: Any = validator(self.middleware) if outer else self.middleware

    def environ(self, *, key: Any = "k", body: Any = b"", method: Any = "POST", **more: Any) -> dict[str, Any]:
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": "/",
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
        }
        if key is not None:
            environ["HTTP_IDEMPOTENCY_KEY"] = key
        return environ | more

    def ask(self, *, stop_after: Any = None, **request: Any) -> Answer:
        """Serve one request to its end, or, as for a client that went away, until `stop_after` chunks were sent."""
        environ = self.environ(**request)
        answer = Answer()
        self.log.clear()
        sent: list[bytes] = []
        held = len(heartbeat)
        try:
            chunks = self.served(environ, self._start_response(answer, sent))
            try:
                for count, chunk in enumerate(chunks, start=1):
                    assert answer.status, "the body came before the head"
                    if chunk:
                        self.log.append("send")
                        sent.append(chunk)
                    if count == stop_after:
                        break
            finally:
                if hasattr(chunks, "close"):
                    chunks.close()
            del chunks  # the validators' iterators raise where they go unclosed, and pytest makes that a failure
        finally:
            answer.body = b"".join(sent)
            answer.log = list(self.log)
            assert len(heartbeat) <= held, "a claim is held on to that nobody will end"
        return answer

    def _start_response(self, answer: Answer, sent: list[bytes]) -> Callable[..., Any]:
        def write(data: bytes) -> None:
            self.log.append("write")
            sent.append(data)

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if exc_info:
                if sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            else:
                assert not answer.status, "a second head"
            answer.status, answer.headers = status, headers
            self.log.append("start")
            return write

        return start_response

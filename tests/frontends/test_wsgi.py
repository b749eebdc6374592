"""The middleware around raw WSGI applications, with PEP 3333's validator inside it and around it."""

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from flask_idempotency import IdempotencyMiddleware, Policy
from flask_idempotency.engine.engine import Engine
from flask_idempotency.stores import MemoryStore

TEXT = ("Content-Type", "text/plain")


class Server:
    """As much of a server as an application can tell: what was sent, and in which order things happened."""

    def __init__(self, app: Any, *, validate: bool = True, **policy: Any) -> None:
        self.store = MemoryStore()
        inner = validator(app) if validate else app
        middleware = IdempotencyMiddleware(inner, store=self.store, policy=Policy(**policy))
        self.app = validator(middleware) if validate else middleware
        self.log: list[str] = []

    def environ(self, *, key: str | None = "k", body: bytes = b"", method: str = "POST", **more: Any) -> dict[str, Any]:
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
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
        }
        if key is not None:
            environ["HTTP_IDEMPOTENCY_KEY"] = key
        return environ | more

    def ask(self, **request: Any) -> tuple[str, list[tuple[str, str]], bytes]:
        """Serve one request as PEP 3333 says, to the end."""
        sent: list[bytes] = []
        head: list[Any] = []

        def write(data: bytes) -> None:
            self.log.append("write")
            sent.append(data)

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], Any]:
            if exc_info:
                if sent:
                    raise exc_info[1].with_traceback(exc_info[2])
                head.clear()
            assert not head
            head.extend([status, headers])
            self.log.append("start")
            return write

        chunks = self.app(self.environ(**request), start_response)
        try:
            for chunk in chunks:
                assert head, "the head comes before the body"
                if chunk:
                    self.log.append("send")
                    sent.append(chunk)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        return head[0], head[1], b"".join(sent)


def replayed(headers: list[tuple[str, str]]) -> bool:
    return ("Idempotent-Replayed", "true") in headers


class Body:
    """An iterable that notes how it is used."""

    def __init__(self, *chunks: bytes, log: list[str]) -> None:
        self.chunks = iter(chunks)
        self.log = log

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self.chunks)

    def close(self) -> None:
        self.log.append("close")


def start(start_response: Any, *headers: tuple[str, str], status: str = "200 OK") -> Any:
    return start_response(status, [TEXT, *headers])


def by_list(environ: Any, start_response: Any) -> Iterable[bytes]:
    start(start_response)
    return [b"hello ", b"world"]


def by_generator(environ: Any, start_response: Any) -> Iterable[bytes]:
    start(start_response)
    yield b"hello "
    yield b""
    yield b"world"


def by_write(environ: Any, start_response: Any) -> Iterable[bytes]:
    write = start(start_response)
    write(b"hello ")
    write(b"world")
    return []


def by_write_and_list(environ: Any, start_response: Any) -> Iterable[bytes]:
    start(start_response)(b"hello ")
    return [b"world"]


def by_write_of_known_length(environ: Any, start_response: Any) -> Iterable[bytes]:
    start(start_response, ("Content-Length", "11"))(b"hello ")
    return [b"world"]


def by_file_wrapper(environ: Any, start_response: Any) -> Iterable[bytes]:
    start(start_response, ("Content-Length", "11"))
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(b"hello world"))
    return wrapped


def by_second_head(environ: Any, start_response: Any) -> Iterable[bytes]:
    start(start_response, status="500 Oops")
    try:
        raise ValueError
    except ValueError:
        start_response("200 OK", [TEXT], sys.exc_info())
    return [b"hello world"]


@pytest.mark.parametrize(
    "app",
    [by_list, by_generator, by_write, by_write_and_list, by_write_of_known_length, by_file_wrapper, by_second_head],
)
def test_every_way_to_answer_is_kept_and_replayed(app: Any) -> None:
    server = Server(app)
    first, again = server.ask(), server.ask()
    assert first[::2] == again[::2] == ("200 OK", b"hello world")
    assert not replayed(first[1])
    assert replayed(again[1])


def test_close_is_called_once_and_after_the_body_was_sent() -> None:
    for headers in ((), (("Content-Length", "1"),)):
        log: list[str] = []

        def app(environ: Any, start_response: Any, headers: Any = headers, log: list[str] = log) -> Iterable[bytes]:
            start(start_response, *headers)
            return Body(b"x", log=log)

        server = Server(app)
        server.log = log
        server.ask()
        assert log == ["start", "send", "close"]


def test_what_has_a_known_length_is_kept_before_its_first_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start(start_response, ("Content-Length", "2"))
        yield b"o"
        yield b"k"

    server = Server(app)
    complete = Engine.complete
    monkeypatch.setattr(Engine, "complete", lambda *a: server.log.append("kept") or complete(*a))
    server.ask()
    assert server.log == ["kept", "start", "send"]


def test_an_event_stream_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    server: Server

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start(start_response)
        for number in range(2):
            server.log.append(f"yield {number}")
            yield b"data"

    server = Server(app)
    tombstone = Engine.begin_streaming
    monkeypatch.setattr(Engine, "begin_streaming", lambda *a: server.log.append("tombstone") or tombstone(*a))
    server.ask()
    assert server.log == ["yield 0", "tombstone", "start", "send", "yield 1", "send"]


def test_a_writer_is_not_held_back() -> None:
    server: Server

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        write = start(start_response)
        write(b"a")
        server.log.append("written")
        write(b"b")
        return []

    server = Server(app)
    server.ask()
    assert server.log == ["start", "write", "written", "write"]


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_a_status_without_a_body_is_kept(status: str) -> None:
    runs = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        runs.append(None)
        start_response(status, [])
        return iter(())

    server = Server(app, keep="all", validate=False)
    assert [server.ask()[0] for _ in range(2)] == [status] * 2
    assert len(runs) == 1


def test_head_is_what_the_policy_makes_of_it() -> None:
    runs = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        runs.append(None)
        start(start_response, ("Content-Length", "5"))
        return []

    server = Server(app, methods=("HEAD",))
    assert [server.ask(method="HEAD")[2] for _ in range(2)] == [b"", b""]
    assert len(runs) == 1


@pytest.mark.parametrize("length", ["3", "7"])
def test_a_body_that_is_not_as_long_as_it_says_is_sent_but_not_kept(length: str) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start(start_response, ("Content-Length", length))
        yield b"hello"

    server = Server(app)
    assert server.ask()[2] == b"hello"
    assert server.ask()[0] == "409 CONFLICT"


def test_a_large_file_stays_the_servers_own_to_send() -> None:
    file = FileWrapper(io.BytesIO(b"x" * 200))

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start(start_response, ("Content-Length", "200"))
        return file

    server = Server(app, max_response_bytes=100, validate=False)
    assert server.app(server.environ(), lambda status, headers, exc_info=None: None) is file
    assert server.ask()[0] == "409 CONFLICT"


def test_an_endless_response_streams_and_never_runs_again() -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start(start_response)
        while True:
            yield b"x" * 1000

    server = Server(app, max_response_bytes=10_000, validate=False)
    chunks = iter(server.app(server.environ(), lambda status, headers, exc_info=None: None))
    assert sum(len(next(chunks)) for _ in range(1000)) == 1_000_000
    chunks.close()  # type: ignore[attr-defined]
    assert server.ask()[0] == "409 CONFLICT"


def fail_at_once(environ: Any, start_response: Any) -> Iterable[bytes]:
    raise ValueError


def fail_after_the_head(environ: Any, start_response: Any) -> Iterable[bytes]:
    start(start_response)
    raise ValueError


def fail_before_the_first_chunk(environ: Any, start_response: Any) -> Iterable[bytes]:
    raise ValueError
    yield b""


def fail_within_the_length(environ: Any, start_response: Any) -> Iterable[bytes]:
    start(start_response, ("Content-Length", "2"))
    yield b"x"
    raise ValueError


@pytest.mark.parametrize(
    "app", [fail_at_once, fail_after_the_head, fail_before_the_first_chunk, fail_within_the_length]
)
def test_an_application_that_fails_before_anything_was_sent_gives_the_key_back(app: Any) -> None:
    server = Server(app, validate=False)
    for _ in range(2):
        with pytest.raises(ValueError):
            server.ask()
    assert server.store._records == {}


def test_being_torn_off_leaves_the_claim_to_lapse() -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise SystemExit

    server = Server(app, validate=False)
    with pytest.raises(SystemExit):
        server.ask()
    assert server.ask()[0] == "409 CONFLICT"


def test_a_failure_after_the_head_was_sent_is_the_servers_to_raise_and_never_run_again() -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start(start_response)
        yield b"x"
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            start_response("500 Oops", [TEXT], sys.exc_info())
        yield b"never"

    server = Server(app, validate=False)
    with pytest.raises(ZeroDivisionError):
        server.ask()
    assert server.ask()[0] == "409 CONFLICT"


def test_two_heads_and_none_are_errors() -> None:
    def two(environ: Any, start_response: Any) -> Iterable[bytes]:
        start(start_response)
        start(start_response)
        return []

    for app in (two, lambda environ, start_response: [b"x"], lambda environ, start_response: iter(())):
        server = Server(app, validate=False)
        with pytest.raises(AssertionError):
            server.ask()
        assert server.store._records == {}


def test_a_failing_close_does_not_lose_the_answer() -> None:
    class Closing(Body):
        def close(self) -> None:
            raise ValueError

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start(start_response, ("Content-Length", "1"))
        return Closing(b"x", log=[])

    server = Server(app, validate=False)
    with pytest.raises(ValueError):
        server.ask()
    assert server.ask()[2] == b"x"


def echo(environ: Any, start_response: Any) -> Iterable[bytes]:
    source = environ["wsgi.input"]
    lines = [source.readline()] if environ["QUERY_STRING"] == "line" else []
    body = b"".join(lines) + (b"".join(source) if environ["QUERY_STRING"] == "iterate" else source.read(10**9))
    start(start_response, ("Content-Length", str(len(body))))
    return [body]


@pytest.mark.parametrize("how", ["read", "line", "iterate"])
@pytest.mark.parametrize("size", [0, 10, 100_000, 1_000_000])
def test_the_body_is_handed_on_unread(how: str, size: int) -> None:
    body = (b"0123456\n9" * (size // 9 + 1))[:size]
    assert Server(echo).ask(body=body, QUERY_STRING=how)[2] == body


class Drip(io.RawIOBase):
    """A terminated input that gives little at a time."""

    def __init__(self, body: bytes) -> None:
        self.body = io.BytesIO(body)

    def read(self, size: int = -1) -> bytes:
        return self.body.read(min(size, 7) if size >= 0 else size)


def test_a_chunked_body_is_read_to_its_end() -> None:
    server = Server(echo, validate=False)
    chunked = {"wsgi.input_terminated": True, "CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}
    for body in (b"", b"hello", b"x" * 1000):
        key = str(len(body))
        answers = [server.ask(key=key, **chunked | {"wsgi.input": Drip(body)})[2] for _ in range(2)]
        assert answers == [body] * 2
        assert server.ask(key=key, **chunked | {"wsgi.input": Drip(body + b"!")})[0] == "422 UNPROCESSABLE ENTITY"


def test_without_length_or_end_no_body_is_read() -> None:
    class Socket(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("this read would hang the server")

    server = Server(by_list, validate=False)
    assert server.ask(CONTENT_LENGTH="", **{"wsgi.input": Socket()})[0] == "200 OK"


class Broken(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError("reset by peer")


@pytest.mark.parametrize(
    "more",
    [
        {"CONTENT_LENGTH": "10", "wsgi.input": io.BytesIO(b"short")},
        {"CONTENT_LENGTH": "100000", "wsgi.input": io.BytesIO(b"short"), "wsgi.input_terminated": True},
        {"CONTENT_LENGTH": "10", "wsgi.input": Broken()},
        {"CONTENT_LENGTH": "ten"},
    ],
)
def test_a_client_that_breaks_off_in_mid_body_leaves_no_claim(more: dict[str, Any]) -> None:
    server = Server(echo, validate=False)
    status, headers, body = server.ask(**more)
    assert (status, dict(headers)["Content-Type"]) == ("400 BAD REQUEST", "application/problem+json")
    assert b"request-body-malformed" in body
    assert server.store._records == {}


def test_a_policy_for_each_request_and_none_for_some() -> None:
    runs: list[str] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        runs.append(environ["PATH_INFO"])
        attempt = environ.get("flask_idempotency.attempt")
        start(start_response)
        return [f"{attempt and attempt.policy.retention}".encode()]

    policies = {"/a": Policy(retention=1), "/b": Policy(retention=2)}
    middleware = IdempotencyMiddleware(
        app, store=MemoryStore(), policy=lambda environ: policies.get(environ["PATH_INFO"])
    )
    server = Server(app)
    server.app = middleware
    heard = [server.ask(key=path, PATH_INFO=path)[2] for path in ("/a", "/b", "/c") for _ in range(2)]
    assert heard == [b"1.0", b"1.0", b"2.0", b"2.0", b"None", b"None"]
    assert runs == ["/a", "/b", "/c", "/c"]


def test_a_middleware_within_a_middleware_leaves_the_request_to_the_outer_one() -> None:
    store = MemoryStore()
    inner = IdempotencyMiddleware(by_list, store=store)
    server = Server(by_list)
    server.app = IdempotencyMiddleware(inner, store=store)
    assert [server.ask()[0] for _ in range(2)] == ["200 OK", "200 OK"]
    assert len(store._records) == 1


def test_the_policy_page_is_served_beside_the_application() -> None:
    server = Server(by_list)
    status, _, body = server.ask(
        method="GET", key=None, PATH_INFO="/idempotency-policy", HTTP_ACCEPT="application/json"
    )
    assert status == "200 OK"
    assert b'"retention_seconds": 86400.0' in body
    moved = Server(by_list, docs_url=None)
    assert moved.ask(method="GET", key=None, PATH_INFO="/idempotency-policy")[2] == b"hello world"

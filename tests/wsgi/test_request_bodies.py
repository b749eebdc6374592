"""Bodies of requests through the middleware: whole, unread, never read past their end, and no claim without them."""

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from gunicorn.http.errors import InvalidChunkSize
from werkzeug import Request

from flask_idempotency import IdempotencyMiddleware, Policy
from flask_idempotency.engine.events import Event, Outcome
from flask_idempotency.stores import MemoryStore
from tests.wsgi.harness import TEXT, Harness

#: None, small, as large as one read, as what stays in memory, and each a byte more.
SIZES = [0, 1, 1000, 65536, 65537, Policy().spool_bytes, Policy().spool_bytes + 1, 2_000_003]


class Socket(io.RawIOBase):
    """A connection that stays open: it gives what was sent, in pieces of its own choosing, and then it would hang."""

    def __init__(self, data: bytes, piece: int = 5000, *, ends: bool = False) -> None:
        self.left = data
        self.piece = piece
        self.ends = ends

    def read(self, size: int = -1) -> bytes:
        if not self.ends:
            assert 0 <= size <= len(self.left), "this read would hang"
        piece = self.piece if size < 0 else min(self.piece, size)
        taken, self.left = self.left[:piece], self.left[piece:]
        return taken

    def readline(self, size: int | None = -1) -> bytes:
        raise AssertionError("a line may end beyond the body")


def numbered(size: int) -> bytes:
    """`size` bytes in lines, no two of which are alike."""
    lines: list[bytes] = []
    total = 0
    while total < size:
        lines.append(b"line %d\n" % len(lines))
        total += len(lines[-1])
    return b"".join(lines)[:size]


def read_at_once(source: Any) -> bytes:
    return source.read(10**9)  # type: ignore[no-any-return]


def read_in_pieces(source: Any) -> bytes:
    return b"".join(iter(lambda: source.read(1000), b""))


def read_lines(source: Any) -> bytes:
    return b"".join(iter(source.readline, b""))


def read_parts_of_lines(source: Any) -> bytes:
    lines = list(iter(lambda: source.readline(3), b""))
    assert all(len(line) <= 3 for line in lines)
    return b"".join(lines)


def read_all_lines(source: Any) -> bytes:
    return b"".join(source.readlines())


def read_lines_up_to_a_hint(source: Any) -> bytes:
    return b"".join(source.readlines(20)) + source.read(10**9)  # type: ignore[no-any-return]


def iterate(source: Any) -> bytes:
    return b"".join(source)


def read_by_turns(source: Any) -> bytes:
    parts = [source.readline(), source.read(3), source.readline(2)]
    parts += [line for _, line in zip(range(3), source, strict=False)]
    return b"".join(parts) + source.read(10**9)  # type: ignore[no-any-return]


WAYS = [
    read_at_once,
    read_in_pieces,
    read_lines,
    read_parts_of_lines,
    read_all_lines,
    read_lines_up_to_a_hint,
    iterate,
    read_by_turns,
]


def echo(read: Callable[[Any], bytes]) -> Any:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        body = hashlib.sha256(read(environ["wsgi.input"])).hexdigest().encode()
        assert environ["wsgi.input"].read(1) == b"", "the end of the body is its end"
        start("200 OK", [TEXT])
        return [body]

    return app


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_the_body_is_handed_on_unread_however_it_is_read(way: Any, size: int) -> None:
    body = numbered(size)
    server = Harness(echo(way))
    answer = server.ask(CONTENT_LENGTH=str(size), **{"wsgi.input": Socket(body)})
    assert answer.body == hashlib.sha256(body).hexdigest().encode()


@pytest.mark.parametrize("length", ["", None, "3"])
@pytest.mark.parametrize("size", SIZES)
def test_a_chunked_body_is_digested_and_handed_on_to_its_end(size: int, length: str | None) -> None:
    body = numbered(size)
    server = Harness(echo(read_in_pieces))

    def ask(body: bytes) -> Any:
        chunked = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
        environ = server.environ(**chunked, **{"wsgi.input": Socket(body, ends=True)})
        if length is None:
            del environ["CONTENT_LENGTH"]
            server.environ = lambda **more: environ  # type: ignore[method-assign]
            try:
                return server.ask()
            finally:
                del server.environ
        return server.ask(CONTENT_LENGTH=length, **chunked, **{"wsgi.input": environ["wsgi.input"]})

    assert [ask(body).body for _ in range(2)] == [hashlib.sha256(body).hexdigest().encode()] * 2
    assert server.runs == 1
    assert ask(body + b"!").problem == "idempotency-key-reused"


def test_a_chunked_body_that_cannot_be_seen_is_refused() -> None:
    """Where the server does not end the input itself, only the application may know how to read it (as on uWSGI)."""
    server = Harness(echo(read_at_once))
    unseen = Socket(b"4\r\nbook\r\n0\r\n\r\n")
    answer = server.ask(HTTP_TRANSFER_ENCODING="chunked", CONTENT_LENGTH="", **{"wsgi.input": unseen})
    assert (answer.code, answer.problem, server.runs) == (400, "body-incomplete", 0)
    assert server.ask(body=b"book").code == 200, "no claim was left"


@pytest.mark.parametrize("length", ["-1", "-0", "+4", "4.0", "0x4", "4 ", " 4", "4,4", "4, 4", "four", "٤", "9" * 5000])
@pytest.mark.parametrize("terminated", [False, True])
def test_a_content_length_that_is_no_number_leaves_no_claim(length: str, terminated: bool) -> None:
    server = Harness(echo(read_at_once), inner=False, outer=False)
    more = {"wsgi.input_terminated": True} if terminated else {}
    answer = server.ask(CONTENT_LENGTH=length, **more, **{"wsgi.input": Socket(b"book")})
    assert (answer.code, answer.problem, server.runs) == (400, "body-incomplete", 0)
    first = server.ask(body=b"another")
    assert (first.code, first.replayed) == (200, False)


@pytest.mark.parametrize("missing", [1, 70_000])
@pytest.mark.parametrize("size", [100, 100_000, 500_000])
def test_a_body_shorter_than_its_length_leaves_no_claim(size: int, missing: int) -> None:
    server = Harness(echo(read_at_once))
    told = Socket(numbered(max(size - missing, 0)), ends=True)
    answer = server.ask(CONTENT_LENGTH=str(size), **{"wsgi.input": told})
    assert (answer.code, answer.problem, server.runs) == (400, "body-incomplete", 0)
    first = server.ask(body=numbered(size))
    assert (first.code, first.replayed) == (200, False)


@pytest.mark.parametrize("error", [ConnectionResetError, TimeoutError, ValueError, InvalidChunkSize])
@pytest.mark.parametrize("after", [0, 10, 100_000])
def test_a_connection_that_breaks_in_mid_body_leaves_no_claim(error: type[Exception], after: int) -> None:
    class Breaking(Socket):
        def read(self, size: int = -1) -> bytes:
            if not self.left:
                raise error("peer")
            return super().read(min(size, len(self.left)))

    server = Harness(echo(read_at_once))
    for more in ({"CONTENT_LENGTH": "200000"}, {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}):
        answer = server.ask(**more, **{"wsgi.input": Breaking(numbered(after))})
        assert (answer.code, answer.problem, server.runs) == (400, "body-incomplete", 0)
    first = server.ask(body=b"another")
    assert (first.code, first.replayed) == (200, False)


def test_a_disk_that_is_full_while_a_body_is_kept_leaves_no_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    from flask_idempotency.http import body

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    server = Harness(echo(read_at_once))
    with monkeypatch.context() as patched:
        patched.setattr(body, "_Spool", lambda size: Full())
        with pytest.raises(OSError):
            server.ask(body=numbered(100_000))
    first = server.ask(body=b"another")
    assert (first.code, first.replayed, server.runs) == (200, False, 1)


@pytest.mark.parametrize("refused", [{"key": None}, {"key": ""}, {"key": "a" * 256}], ids=["none", "empty", "long"])
@pytest.mark.parametrize("chunked", [True, False])
def test_of_a_body_that_is_refused_unread_some_is_read_so_that_the_client_hears_why(
    refused: dict[str, Any], chunked: bool
) -> None:
    """A server that closes upon unread input resets the connection."""
    for size, unread in ((4, 0), (1024 * 1024, 0), (10_000_000, 8_000_000)):
        source = Socket(b"x" * size, 65536, ends=chunked)
        head = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True} if chunked else {"CONTENT_LENGTH": str(size)}
        server = Harness(echo(read_at_once))
        assert server.ask(**head, **refused, **{"wsgi.input": source}).code == 400
        assert len(source.left) >= unread
        assert unread or not source.left


@pytest.mark.parametrize(
    "policy", [{}, {"key_from": lambda request: request.headers.get("X-Event")}], ids=["header", "key_from"]
)
def test_without_a_key_where_none_is_required_the_application_gets_the_servers_own_input(policy: Any) -> None:
    seen: list[Any] = []

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        seen.append(environ["wsgi.input"])
        start("200 OK", [TEXT])
        return []

    server = Harness(app, inner=False, outer=False, required=False, **policy)
    source = Socket(b"book")
    server.ask(key=None, CONTENT_LENGTH="4", **{"wsgi.input": source})
    assert seen == [source]


def reader(body: bytes) -> Any:
    """An application that must find `body`."""

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        assert environ["wsgi.input"].read(len(body)) == body
        start("200 OK", [TEXT])
        return []

    return app


def event_id(request: Request) -> Any:
    return request.get_json()["id"]


@pytest.mark.parametrize("padding", [0, 1_000_000])
@pytest.mark.parametrize("event", [{"id": "evt_1"}, {"id": None}, {"name": "no id"}])
def test_what_looks_for_the_key_in_the_body_takes_nothing_away_from_the_application(event: Any, padding: int) -> None:
    body = json.dumps(event | {"padding": "x" * padding}).encode()
    server = Harness(reader(body), key_from=event_id, required=False)
    for _ in range(2):
        answer = server.ask(
            key=None, CONTENT_TYPE="application/json", CONTENT_LENGTH=str(len(body)), **{"wsgi.input": Socket(body)}
        )
        assert answer.code == 200
    assert server.runs == (1 if event.get("id") else 2)


def test_what_looks_for_the_key_and_reads_a_part_takes_nothing_away() -> None:
    body = numbered(200_000)

    def key_from(request: Request) -> None:
        assert request.stream.read(10) == body[:10]

    server = Harness(reader(body), key_from=key_from, required=False)
    assert server.ask(key=None, CONTENT_LENGTH=str(len(body)), **{"wsgi.input": Socket(body)}).code == 200


def test_a_body_that_breaks_off_while_the_key_is_looked_for_is_refused() -> None:
    server = Harness(reader(b""), key_from=event_id, required=False)
    answer = server.ask(
        key=None, CONTENT_TYPE="application/json", CONTENT_LENGTH="20", **{"wsgi.input": Socket(b"{}", ends=True)}
    )
    assert (answer.code, server.runs) == (400, 0)


@pytest.mark.parametrize("padding", [0, 1_000_000])
def test_a_principal_that_is_taken_from_the_body_takes_nothing_away(padding: int) -> None:
    def principal(request: Request) -> Any:
        return request.get_json()["tenant"]

    for tenant in ("a", "b"):
        body = json.dumps({"tenant": tenant, "padding": "x" * padding}).encode()
        server = Harness(reader(body), principal=principal)
        for _ in range(2):
            assert server.ask(body=body, CONTENT_TYPE="application/json").code == 200
        assert server.runs == 1


def multipart(boundary: str, *, size: int) -> tuple[str, bytes]:
    form = f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'.encode()
    return f"multipart/form-data; boundary={boundary}", form + numbered(size) + f"\r\n--{boundary}--\r\n".encode()


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_form_reaches_the_application_byte_by_byte_and_its_retry_with_another_boundary_is_a_replay(size: int) -> None:
    content_type, body = multipart("one", size=size)
    server = Harness(reader(body))
    assert server.ask(body=body, CONTENT_TYPE=content_type).code == 200
    content_type, retry = multipart("two", size=size)
    assert server.ask(body=retry, CONTENT_TYPE=content_type).replayed
    content_type, other = multipart("two", size=size + 1)
    assert server.ask(body=other, CONTENT_TYPE=content_type).problem == "idempotency-key-reused"
    assert server.runs == 1


def test_a_form_that_is_none_is_the_applications_and_counts_by_its_bytes() -> None:
    content_type, _ = multipart("one", size=10)
    _, body = multipart("two", size=10)
    server = Harness(reader(body))
    assert [server.ask(body=body, CONTENT_TYPE=content_type).replayed for _ in range(2)] == [False, True]
    assert server.ask(body=body + b"x", CONTENT_TYPE=content_type).problem == "idempotency-key-reused"


def test_a_body_kept_on_disk_is_given_up_without_a_warning() -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [TEXT])
        return []

    server = Harness(app)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert server.ask(body=numbered(1_000_000)).code == 200


def test_a_body_is_read_before_the_claim_and_a_slow_client_holds_none() -> None:
    told: list[Event] = []
    seen: list[list[Event]] = []

    class Slow(Socket):
        def read(self, size: int = -1) -> bytes:
            seen.append(list(told))
            return super().read(size)

    def middleware(app: Any) -> Any:
        return IdempotencyMiddleware(app, store=MemoryStore(), policy=Policy(), observers=[told.append])

    server = Harness(echo(read_in_pieces), middleware=middleware)
    body = numbered(20_000)
    server.ask(CONTENT_LENGTH=str(len(body)), **{"wsgi.input": Slow(body)})
    assert len(seen) == 4
    assert not any(seen)
    assert [event.outcome for event in told] == [Outcome.CLAIMED, Outcome.COMPLETED]


def test_an_iterator_over_the_body_may_be_left_and_taken_up_again() -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        lines: Iterator[bytes] = iter(environ["wsgi.input"])
        assert next(lines) == b"line 0\n"
        assert environ["wsgi.input"].readline() == b"line 1\n"
        assert next(iter(environ["wsgi.input"])) == b"line 2\n"
        start("200 OK", [TEXT])
        return []

    for size in (100, 1_000_000):
        assert Harness(app).ask(body=numbered(size)).code == 200

"""Every way in which PEP 3333 lets an application answer: kept, replayed, and sent as it was meant."""

import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from tests.wsgi.harness import TEXT, Harness, note

BODY = b"hello world"
LENGTH = ("Content-Length", str(len(BODY)))


class Closing:
    """An iterable, not its own iterator, that notes when it is closed."""

    def __init__(self, *chunks: bytes, log: list[str]) -> None:
        self.chunks = chunks
        self.log = log

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks)

    def close(self) -> None:
        self.log.append("close")


def by_list(start: Any, headers: Any, environ: Any) -> Iterable[bytes]:
    start("201 Made", headers)
    return [b"hello ", b"world"]


def by_tuple(start: Any, headers: Any, environ: Any) -> Iterable[bytes]:
    start("201 Made", headers)
    return (b"hello ", b"", b"world")


def by_lazy_generator(start: Any, headers: Any, environ: Any) -> Iterable[bytes]:
    start("201 Made", headers)
    yield b""
    yield b"hello "
    yield b"world"


def by_iterator(start: Any, headers: Any, environ: Any) -> Iterable[bytes]:
    start("201 Made", headers)
    return iter([b"hello ", b"world"])


def by_write(start: Any, headers: Any, environ: Any) -> Iterable[bytes]:
    write = start("201 Made", headers)
    write(b"hello ")
    write(b"world")
    return []


def by_write_and_list(start: Any, headers: Any, environ: Any) -> Iterable[bytes]:
    start("201 Made", headers)(b"hello ")
    return [b"world"]


def by_write_and_iterator(start: Any, headers: Any, environ: Any) -> Iterable[bytes]:
    start("201 Made", headers)(b"hello ")
    return iter([b"wor", b"ld"])


def by_write_within_a_generator(start: Any, headers: Any, environ: Any) -> Iterable[bytes]:
    """PEP 3333 forbids it and servers send it in order all the same."""
    write = start("201 Made", headers)
    write(b"hel")
    yield b"lo "
    write(b"wor")
    yield b"ld"


def by_file_wrapper(start: Any, headers: Any, environ: Any) -> Iterable[bytes]:
    start("201 Made", headers)
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(BODY), 4)
    return wrapped


def by_another_head(start: Any, headers: Any, environ: Any) -> Iterable[bytes]:
    start("500 Oops", [TEXT])
    try:
        raise ValueError
    except ValueError:
        start("201 Made", headers, sys.exc_info())
    return [BODY]


def by_a_lone_string_of_a_list(start: Any, headers: Any, environ: Any) -> Iterable[bytes]:
    start("201 Made", headers)
    return [BODY]


#: The validator within makes an iterator of everything, and a list would never be seen as one.
WAYS = [
    by_list,
    by_tuple,
    by_lazy_generator,
    by_iterator,
    by_write,
    by_write_and_list,
    by_write_and_iterator,
    by_write_within_a_generator,
    by_file_wrapper,
    by_another_head,
    by_a_lone_string_of_a_list,
]


@pytest.mark.parametrize("inner", [True, False], ids=["validated", "as it is"])
@pytest.mark.parametrize("length", [None, LENGTH], ids=["of unknown length", "of known length"])
@pytest.mark.parametrize("way", WAYS)
def test_it_is_sent_whole_kept_and_replayed(inner: bool, way: Any, length: Any) -> None:
    headers = [TEXT, ("X-A", "1")] + ([length] if length else [])
    server = Harness(lambda environ, start: way(start, list(headers), environ), inner=inner)
    first, again = server.ask(), server.ask()
    assert (first.status, first.headers, first.body) == ("201 Made", headers, BODY)
    assert (again.status, again.body, again.replayed) == (first.status, BODY, True)
    assert again.headers[:-1] == first.headers
    assert server.runs == 1


@pytest.mark.parametrize("inner", [True, False], ids=["validated", "as it is"])
@pytest.mark.parametrize("length", [None, LENGTH], ids=["of unknown length", "of known length"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_kept_is_sent_as_well_and_runs_again(inner: bool, way: Any, length: Any) -> None:
    headers = [TEXT] + ([length] if length else [])
    server = Harness(lambda environ, start: way(start, list(headers), environ), inner=inner, keep=lambda status: False)
    for _ in range(2):
        answer = server.ask()
        assert (answer.status, answer.headers, answer.body) == ("201 Made", headers, BODY)
        assert not answer.replayed
    assert server.runs == 2


@pytest.mark.parametrize("inner", [True, False], ids=["validated", "as it is"])
@pytest.mark.parametrize("length", [None, LENGTH], ids=["of unknown length", "of known length"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_too_large_is_sent_as_well_and_never_runs_again(inner: bool, way: Any, length: Any) -> None:
    headers = [TEXT] + ([length] if length else [])
    server = Harness(
        lambda environ, start: way(start, list(headers), environ), inner=inner, max_response_bytes=len(BODY) - 1
    )
    answer = server.ask()
    assert (answer.status, answer.headers, answer.body) == ("201 Made", headers, BODY)
    assert server.ask().problem == "response-not-kept"
    assert server.runs == 1


@pytest.mark.parametrize("headers", [[], [LENGTH], [("Content-Length", "1000000")]], ids=["unknown", "known", "large"])
@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_the_body_is_closed_once_when_the_last_of_it_was_sent(status: str, headers: Any) -> None:
    server: Harness

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start(status, [TEXT, *headers])
        return Closing(b"hello ", b"world", log=server.log)

    server = Harness(app, max_response_bytes=100)
    log = server.ask().log
    assert log.count("close") == 1
    assert log[-1] == "close"
    assert log.index("start") < log.index("send")


def test_a_client_that_goes_away_closes_the_body_once() -> None:
    server: Harness

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [TEXT])
        return Closing(b"hello ", b"world", log=server.log)

    server = Harness(app)
    assert server.ask(stop_after=1).log == ["start", "send", "close"]
    assert server.ask().problem == "response-not-kept"


@pytest.mark.parametrize(
    "chunks", [[], (), [b""], [b"", b""], iter(())], ids=["list", "tuple", "empty", "twice empty", "iterator"]
)
@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "205 Reset Content", "304 Not Modified"])
@pytest.mark.parametrize("inner", [True, False], ids=["validated", "as it is"])
def test_nothing_is_a_body_too(inner: bool, status: str, chunks: Any) -> None:
    headers = [("X-A", "1")] if status[:3] in ("204", "304") else [TEXT]

    def app(environ: Any, start: Any) -> Any:
        start(status, list(headers))
        return chunks

    server = Harness(app, inner=inner, keep="all")
    first, again = server.ask(), server.ask()
    assert (first.status, first.headers, first.body) == (status, headers, b"")
    assert (again.status, again.headers[:-1], again.body, again.replayed) == (status, headers, b"", True)
    assert server.runs == 1


def test_a_204_from_a_generator_is_kept_before_the_head_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("204 No Content", [])
        yield from ()

    server = Harness(app)
    note(monkeypatch, server.log, complete="kept")
    assert server.ask().log == ["kept", "start"]


@pytest.mark.parametrize("chunks", [[BODY], (BODY,)], ids=["list", "tuple"])
def test_a_body_of_one_string_lets_the_server_tell_its_length(chunks: Any) -> None:
    """PEP 3333: where `len()` of the iterable is 1, a server may count the bytes and add a Content-Length."""

    def app(environ: Any, start: Any) -> Any:
        start("200 OK", [TEXT])
        return chunks

    for keeps in (True, False):
        server = Harness(app, inner=False, outer=False, keep=lambda status, keeps=keeps: keeps)
        body = server.served(server.environ(), lambda status, headers, exc_info=None: None)
        assert len(body) == 1
        assert list(body) == [BODY]


def test_head_is_kept_as_it_was_answered() -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [TEXT, LENGTH])
        return []

    server = Harness(app, methods=("HEAD",))
    first, again = server.ask(method="HEAD"), server.ask(method="HEAD")
    assert again.headers[:-1] == first.headers == [TEXT, LENGTH]
    assert (first.body, again.body, again.replayed, server.runs) == (b"", b"", True, 1)


def test_a_refusal_of_head_is_its_head_alone() -> None:
    server = Harness(everything, methods=("HEAD", "POST"))
    refused, told = server.ask(method="HEAD", key=None), server.ask(key=None)
    assert (refused.status, refused.headers) == (told.status, told.headers)
    assert dict(refused.headers)["Content-Length"] == str(len(told.body))
    assert (refused.body, told.problem, server.runs) == (b"", "idempotency-key-missing", 0)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"])
def test_other_methods_pass_untouched(method: str) -> None:
    seen: list[Any] = []

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        seen.append(environ)
        start("200 OK", [TEXT])
        return chunks

    chunks = [b"x"]
    server = Harness(app, inner=False, outer=False)
    environ = server.environ(method=method)
    before = dict(environ)
    assert server.served(environ, lambda status, headers, exc_info=None: None) is chunks
    assert seen == [before]


@pytest.mark.parametrize("inner", [True, False], ids=["validated", "as it is"])
@pytest.mark.parametrize("length", ["0", "10", "12", "100000000"])
@pytest.mark.parametrize("way", [by_list, by_lazy_generator, by_write, by_write_and_iterator])
def test_a_length_that_lies_is_sent_as_it_is_and_never_replayed(inner: bool, way: Any, length: str) -> None:
    server = Harness(lambda environ, start: way(start, [TEXT, ("Content-Length", length)], environ), inner=inner)
    assert server.ask().body == BODY
    assert server.ask().problem == "response-not-kept"
    assert server.runs == 1


@pytest.mark.parametrize("length", ["ten", "-1", "", " 11", "11, 11"])
def test_a_length_that_is_no_number_counts_as_unknown(length: str) -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [TEXT, ("Content-Length", length)])
        return iter([BODY])

    server = Harness(app)
    assert [server.ask().body for _ in range(2)] == [BODY, BODY]
    assert server.runs == 1


def test_a_large_file_goes_to_the_server_as_the_servers_own_object() -> None:
    class Wrapper:
        """A server's file wrapper: one that is iterated over cannot be sent by sendfile any more."""

        def __init__(self, file: Any, block_size: int = 8192) -> None:
            self.file = file

        def __iter__(self) -> Iterator[bytes]:
            raise AssertionError("the file was read")

        def close(self) -> None:
            closed.append(self)

    def app(environ: Any, start: Any) -> Any:
        start("200 OK", [TEXT, ("Content-Length", "200")])
        made.append(environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 200)))
        return made[-1]

    made: list[Any] = []
    closed: list[Any] = []
    server = Harness(app, inner=False, outer=False, max_response_bytes=100)
    environ = server.environ(**{"wsgi.file_wrapper": Wrapper})
    sent = server.served(environ, lambda status, headers, exc_info=None: None)
    assert sent is made[0]
    assert closed == []
    assert server.ask().problem == "response-not-kept"


def everything(environ: Any, start: Any) -> Iterable[bytes]:
    start(
        "299 Quite Well",
        [
            ("X-B", "1"),
            ("Set-Cookie", "a=1; Path=/"),
            ("content-type", "application/octet-stream"),
            ("X-A", "2"),
            ("Set-Cookie", "b=2"),
            ("X-B", "3"),
            ("Content-Encoding", "gzip"),
            ("Date", "Tue, 24 Nov 2026 12:00:00 GMT"),
        ],
    )
    return [bytes(range(256))]


@pytest.mark.parametrize("cookies", [True, False])
def test_status_line_header_order_repeated_headers_and_binary_body_are_replayed(cookies: bool) -> None:
    server = Harness(everything, keep_cookies=cookies)
    first, again = server.ask(), server.ask()
    assert again.status == "299 Quite Well"
    assert first.body == again.body == bytes(range(256))
    expected = [header for header in first.headers if header[0] != "Date" and (cookies or header[0] != "Set-Cookie")]
    assert again.headers == [*expected, ("Idempotent-Replayed", "true")]


def test_headers_that_the_server_adds_to_the_list_are_not_kept() -> None:
    """PEP 3333 lets a server change the list that it is given."""

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [TEXT])
        yield b"x"

    server = Harness(app, inner=False, outer=False)

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        headers.append(("Server", "one-worker/7"))

    chunks = server.served(server.environ(), start_response)
    assert b"".join(chunks) == b"x"
    chunks.close()
    assert server.ask().headers == [TEXT, ("Idempotent-Replayed", "true")]

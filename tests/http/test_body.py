"""The request's body: digested by whoever reads it first, readable again, and never read past its end."""

import io
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug import Request
from werkzeug.exceptions import RequestEntityTooLarge

from flask_idempotency.engine.policy import Policy
from flask_idempotency.http.body import Body, BodyIncomplete, drain_some
from flask_idempotency.http.fingerprint import fingerprint_of_value


class Socket(io.RawIOBase):
    """Gives what it has in pieces of its own choosing; a read beyond would hang, as that of a socket does."""

    def __init__(self, data: bytes, piece: int = 1 << 30, *, ends: bool = False) -> None:
        self.data = data
        self.piece = piece
        self.ends = ends

    def read(self, size: int = -1) -> bytes:
        if not self.ends:
            assert 0 <= size <= len(self.data), "this read would hang"
        size = min(self.piece, len(self.data)) if size < 0 else min(size, self.piece)
        taken, self.data = self.data[:size], self.data[size:]
        return taken


DEFAULT = Policy()


def body_of(source: Any, length: object = None, *, policy: Policy = DEFAULT, **environ: Any) -> Body:
    known = {"REQUEST_METHOD": "POST", "wsgi.input": source}
    if length is not None:
        known["CONTENT_LENGTH"] = str(length)
    environ = known | environ
    return Body(environ, policy)


def rest(body: Body) -> bytes:
    data: bytes = body._environ["wsgi.input"].read()
    return data


@given(st.binary(max_size=3000), st.integers(1, 500), st.lists(st.integers(0, 400), max_size=5), st.booleans())
def test_whoever_reads_first_the_body_is_whole_and_its_fingerprint_the_same(
    data: bytes, piece: int, reads: list[int], chunked: bool
) -> None:
    """`reads`: what hooks have read before the fingerprint was due."""
    expected = body_of(io.BytesIO(data), len(data)).finish()
    if chunked:
        body = body_of(Socket(data, piece, ends=True), **{"wsgi.input_terminated": True})
    else:
        body = body_of(Socket(data, piece), len(data))
    left = len(data)
    for size in reads:
        left -= len(body.read(min(size, left)))
    assert body.finish() == expected
    assert rest(body) == data


def test_lines_are_read_and_kept_as_well() -> None:
    body = body_of(io.BytesIO(b"a\nb\nc\nd"), 7)
    assert body.readline() == b"a\n"
    assert next(iter(body)) == b"b\n"
    assert body.readlines() == [b"c\n", b"d"]
    assert body.finish() == body_of(io.BytesIO(b"a\nb\nc\nd"), 7).finish()
    assert rest(body) == b"a\nb\nc\nd"


@pytest.mark.parametrize("environ", [{}, {"CONTENT_LENGTH": ""}, {"CONTENT_LENGTH": "0"}])
def test_without_a_length_nothing_is_read(environ: dict[str, str]) -> None:
    body = body_of(Socket(b""), **environ)
    assert body.finish() == body_of(io.BytesIO(), 0).finish()
    assert rest(body) == b""


@pytest.mark.parametrize("length", ["-1", "+3", "3.0", "0x3", "3 ", "abc", "٣", "9" * 5000])
def test_a_length_that_is_no_number_is_a_broken_body(length: str) -> None:
    with pytest.raises(BodyIncomplete):
        body_of(Socket(b"abc"), length).finish()


@pytest.mark.parametrize("missing", [1, 100_000])
def test_a_body_that_ends_early_is_broken(missing: int) -> None:
    data = b"x" * 200_000
    with pytest.raises(BodyIncomplete):
        body_of(Socket(data[missing:], 50_000, ends=True), len(data)).finish()


@pytest.mark.parametrize("error", [OSError("reset"), ConnectionResetError(), TimeoutError(), ValueError("closed file")])
@pytest.mark.parametrize("length", [3, 100_000])
def test_a_body_that_cannot_be_read_is_broken(error: Exception, length: int) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise error

    with pytest.raises(BodyIncomplete):
        body_of(Broken(), length).finish()


def test_a_body_longer_than_the_limit_is_not_read_to_its_end() -> None:
    source = Socket(b"x" * 10_000_000)
    with pytest.raises(RequestEntityTooLarge):
        body_of(source, 10_000_000).finish(limit=100)
    assert 8_000_000 < len(source.data) < 9_000_000, "some is read, so that the client hears of it"


def test_a_body_without_length_is_read_up_to_the_limit() -> None:
    source = Socket(b"x" * 10_000_000, ends=True)
    with pytest.raises(RequestEntityTooLarge):
        body_of(source, **{"wsgi.input_terminated": True}).finish(limit=100)
    assert 8_000_000 < len(source.data) < 9_000_000


@pytest.mark.parametrize("size", [99, 100])
def test_a_body_up_to_the_limit_is_taken(size: int) -> None:
    for body in (
        body_of(io.BytesIO(b"x" * size), size),
        body_of(io.BytesIO(b"x" * size), **{"wsgi.input_terminated": True}),
    ):
        body.finish(limit=100)
        assert len(rest(body)) == size


def test_a_large_body_is_kept_on_disk() -> None:
    size = 32 * 1024 * 1024

    class Zeros(io.RawIOBase):
        def read(self, count: int = -1) -> bytes:
            return bytes(count)

    tracemalloc.start()
    try:
        body = body_of(Zeros(), size)
        body.finish()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * Policy().spool_bytes
    kept = body._environ["wsgi.input"]
    assert sum(len(chunk) for chunk in iter(lambda: kept.read(65536), b"")) == size
    kept.close()


@pytest.mark.parametrize("size", [10, 64 * 1024, 64 * 1024 + 1, 300_000])
@pytest.mark.parametrize("read_before", [0, 1, 9])
def test_nothing_is_read_past_the_end(size: int, read_before: int) -> None:
    body = body_of(Socket(b"x" * size, 10_000), size)
    body.read(read_before)
    body.finish()
    assert rest(body) == b"x" * size


@pytest.mark.parametrize(
    "read", [lambda body: body.read(), lambda body: body.readline(), lambda body: body.readlines()]
)
def test_who_reads_early_without_a_size_reads_to_the_end_and_not_past_it(read: Callable[[Body], object]) -> None:
    body = body_of(Socket(b"x" * 7), 7)
    assert read(body) in (b"x" * 7, [b"x" * 7])
    assert body.read() == body.readline() == b""
    body.finish()
    assert rest(body) == b"x" * 7


def test_who_holds_the_body_still_reads_it_after_its_end() -> None:
    body = body_of(io.BytesIO(b"a\nb"), 3)
    body.read(1)
    body.finish()
    assert body.read() == b"a\nb"
    body.rewind()
    assert body.readline() == b"a\n"
    assert body.finish() == body_of(io.BytesIO(b"a\nb"), 3).finish()


def test_a_body_that_was_read_for_a_key_is_handed_on_unread() -> None:
    body = body_of(Socket(b"x" * 200_000), 200_000)
    body.read(10)
    body.rewind()
    assert rest(body) == b"x" * 200_000


def test_a_body_that_nobody_read_is_handed_on_as_it_was() -> None:
    source = Socket(b"x")
    body = body_of(source, 1)
    body.rewind()
    assert body._environ["wsgi.input"] is source


@pytest.mark.parametrize("spool_bytes", [0, 1, 100, 200_000])
@pytest.mark.parametrize("early", [True, False])
def test_what_is_larger_than_the_policy_says_goes_to_disk(spool_bytes: int, early: bool) -> None:
    for size in (spool_bytes, spool_bytes + 1):
        body = body_of(io.BytesIO(b"x" * size), size, policy=Policy(spool_bytes=spool_bytes))
        if early:
            body.read(1)
        body.finish()
        kept: Any = body._environ["wsgi.input"]
        in_memory = isinstance(kept, io.BytesIO) or not kept._rolled
        assert in_memory == (size <= spool_bytes) or not size
        assert rest(body) == b"x" * size


def asking(function: Callable[..., object]) -> Policy:
    return Policy(fingerprint=function)


@pytest.mark.parametrize("size", [7, 70_000, 300_000])
@pytest.mark.parametrize("early", [0, 3])
def test_a_callable_reads_the_body_and_the_handler_still_gets_it_whole(size: int, early: int) -> None:
    def asked(request: Request) -> str:
        assert request.get_data() == b"x" * size
        return "the order"

    bodies = [body_of(Socket(b"x" * size), size, policy=asking(asked)) for _ in range(2)]
    bodies[0].read(early)
    assert bodies[0].finish() == bodies[1].finish()
    assert [rest(body) for body in bodies] == [b"x" * size] * 2


def test_what_a_callable_returns_replaces_all_that_is_digested() -> None:
    def of(value: object, path: str) -> bytes:
        return body_of(io.BytesIO(b"x"), 1, policy=asking(lambda: value), PATH_INFO=path).finish()

    assert of("a", "/one") == of("a", "/two") != of("b", "/one")


def test_a_callable_asks_the_request_of_the_front_end_whoever_has_read_it() -> None:
    body = body_of(Socket(b"a=1&b=2"), 7, CONTENT_TYPE="application/x-www-form-urlencoded")
    current = Request(body._environ, populate_request=False)
    body._policy = asking(lambda request: [request.form["a"], request.get_data(as_text=True)])
    assert current.form["b"] == "2"
    fingerprint = body.finish(request=lambda: current)
    assert fingerprint == fingerprint_of_value(["1", "a=1&b=2"])
    assert current.stream.read() == b"a=1&b=2"


def test_before_a_refusal_the_body_is_read_and_whoever_notes_refusals_can_read_it() -> None:
    body = body_of(Socket(b"x" * 200_000), 200_000)
    drain_some(body._environ)
    assert rest(body) == b"x" * 200_000


def test_before_a_refusal_only_some_of_a_large_body_is_read() -> None:
    source = Socket(b"x" * 10_000_000)
    body = body_of(source, 10_000_000)
    drain_some(body._environ)
    assert 8_000_000 < len(source.data) < 9_000_000
    assert len(body.read(5)) == 5


@pytest.mark.parametrize("length", [None, "abc", 3])
def test_before_a_refusal_nothing_is_wrong_with_a_body(length: object) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise ConnectionResetError

    drain_some(body_of(Broken(), length)._environ)


def test_a_body_that_was_read_is_not_read_again_before_a_refusal() -> None:
    body = body_of(Socket(b"x" * 10), 10)
    body.read()
    drain_some(body._environ)
    assert rest(body) == b"x" * 10

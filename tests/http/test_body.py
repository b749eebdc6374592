"""The request's body: digested by whoever reads it first, readable again, and never read past its end."""

import io
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import RequestEntityTooLarge

from flask_idempotency.http.body import SPOOL_BYTES, Body, BrokenBody


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


def body_of(source: Any, length: object = None, **environ: Any) -> Body:
    known = {"REQUEST_METHOD": "POST", "wsgi.input": source}
    if length is not None:
        known["CONTENT_LENGTH"] = str(length)
    environ = known | environ
    body = Body(environ, "bytes")
    body.environ = environ  # type: ignore[attr-defined]
    return body


def rest(body: Body) -> bytes:
    data: bytes = body.environ["wsgi.input"].read()  # type: ignore[attr-defined]
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
    with pytest.raises(BrokenBody):
        body_of(Socket(b"abc"), length).finish()


@pytest.mark.parametrize("missing", [1, 100_000])
def test_a_body_that_ends_early_is_broken(missing: int) -> None:
    data = b"x" * 200_000
    with pytest.raises(BrokenBody):
        body_of(Socket(data[missing:], 50_000, ends=True), len(data)).finish()


@pytest.mark.parametrize("error", [OSError("reset"), ConnectionResetError(), TimeoutError(), ValueError("closed file")])
@pytest.mark.parametrize("length", [3, 100_000])
def test_a_body_that_cannot_be_read_is_broken(error: Exception, length: int) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise error

    with pytest.raises(BrokenBody):
        body_of(Broken(), length).finish()


def test_a_body_longer_than_the_limit_is_not_read() -> None:
    body = body_of(Socket(b""), 101)
    with pytest.raises(RequestEntityTooLarge):
        body.finish(limit=100)


def test_a_body_without_length_is_read_up_to_the_limit() -> None:
    source = Socket(b"x" * 1_000_000, ends=True)
    with pytest.raises(RequestEntityTooLarge):
        body_of(source, **{"wsgi.input_terminated": True}).finish(limit=100)
    assert len(source.data) > 900_000


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
    assert peak < 4 * SPOOL_BYTES
    kept = body.environ["wsgi.input"]  # type: ignore[attr-defined]
    assert sum(len(chunk) for chunk in iter(lambda: kept.read(65536), b"")) == size
    kept.close()


@pytest.mark.parametrize("size", [10, 64 * 1024, 64 * 1024 + 1, 300_000])
@pytest.mark.parametrize("read_before", [0, 1, 9])
def test_nothing_is_read_past_the_end(size: int, read_before: int) -> None:
    body = body_of(Socket(b"x" * size, 10_000), size)
    body.read(read_before)
    body.finish()
    assert rest(body) == b"x" * size

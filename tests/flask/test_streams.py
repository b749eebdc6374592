"""Streamed responses: what is kept of them, and that no key is stuck, whatever becomes of them on their way."""

import gc
import io
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from flask import Flask, Response, request, send_file, stream_with_context
from flask_compress import Compress

from flask_idempotency import Idempotency
from flask_idempotency.engine.heartbeat import heartbeat
from flask_idempotency.stores import MemoryStore
from tests.flask.apps import make_app, post, slug


def chunks(closed: list[str] | None = None) -> Iterator[bytes]:
    try:
        yield from (b"chunk %d " % number * 100 for number in range(20))
    finally:
        if closed is not None:
            closed.append("closed")


def test_the_first_byte_leaves_when_the_view_yields_it() -> None:
    app, _ = make_app()
    log: list[str] = []

    @app.post("/x")
    def view() -> Any:
        def events() -> Iterator[bytes]:
            for number in range(3):
                log.append(f"yields {number}")
                yield b"data: %d\n\n" % number

        return Response(events(), mimetype="text/event-stream")

    answer = post(app, buffered=False)
    for number, event in enumerate(answer.iter_encoded()):
        log.append(f"arrives {number}")
        assert slug(post(app)) == "request-in-progress"
        assert event == b"data: %d\n\n" % number
    assert log == ["yields 0", "arrives 0", "yields 1", "arrives 1", "yields 2", "arrives 2"]
    answer.close()
    assert post(app).data == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


def test_an_endless_stream_is_never_run_again() -> None:
    app, _ = make_app(max_response_bytes=1000)
    runs: list[int] = []

    @app.post("/x")
    def view() -> Any:
        def endless() -> Iterator[bytes]:
            runs.append(1)
            while True:
                yield b"x" * 100

        return Response(endless())

    answer = post(app, buffered=False)
    taken = [next(answer.iter_encoded()) for _ in range(50)]
    assert sum(map(len, taken)) == 5000
    answer.close()
    assert slug(post(app)) == "response-not-kept"
    assert runs == [1]


@pytest.mark.parametrize("status", [200, 503])
def test_a_stream_that_another_response_took_the_place_of_leaves_no_claim_behind(status: int) -> None:
    app, _ = make_app()
    closed: list[str] = []

    @app.post("/x")
    def view() -> Any:
        return Response(chunks(closed), status=status)

    @app.after_request
    def replaced(response: Any) -> Any:
        return Response("replaced", status=status) if response.is_streamed else response

    held = len(heartbeat)
    assert post(app).text == "replaced"
    gc.collect()
    assert len(heartbeat) == held
    again = post(app)
    # What succeeded is done, though its answer is lost; what failed runs again.
    assert (again.status_code, again.text if status == 503 else slug(again)) == (
        (503, "replaced") if status == 503 else (409, "response-not-kept")
    )


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("compress_first", [True, False])
def test_a_compressed_stream_is_told_to_its_end_too(status: int, whole: bool, compress_first: bool) -> None:
    app = Flask(__name__)
    set_up = [Compress, partial(Idempotency, store=MemoryStore())]
    for extension in set_up if compress_first else reversed(set_up):
        extension(app)
    runs: list[int] = []

    @app.post("/x")
    def view() -> Any:
        runs.append(1)
        return Response(chunks(), status=status, mimetype="text/plain")

    gc.collect()
    held = len(heartbeat)
    deflate = {"Accept-Encoding": "deflate"}
    answer = post(app, headers=deflate, buffered=False)
    assert answer.headers.get("Content-Encoding") == ("deflate" if status == 200 else None)
    if whole:
        data = zlib.decompress(answer.data) if status == 200 else answer.data
        assert data == b"".join(chunks())
    else:
        next(answer.iter_encoded())
    answer.close()
    del answer
    gc.collect()
    assert len(heartbeat) == held
    again = post(app)
    if status == 500:
        assert (again.status_code, len(runs)) == (500, 2)
    elif whole:
        # Kept before it was compressed: each request is answered as it accepts.
        assert "Content-Encoding" not in again.headers
        assert (again.data, len(runs)) == (b"".join(chunks()), 1)
    else:
        assert (slug(again), len(runs)) == ("response-not-kept", 1)


@pytest.mark.parametrize("status", [204, 304])
def test_a_stream_that_no_status_would_send_is_kept_as_empty(status: int) -> None:
    app, _ = make_app(keep="all")
    closed: list[str] = []
    view = stream_with_context(lambda: chunks(closed))
    app.add_url_rule("/x", "x", lambda: Response(view(), status=status), methods=["POST"])
    first, again = post(app), post(app)
    assert (first.status_code, again.status_code, again.data) == (status, status, b"")
    assert again.headers["Idempotent-Replayed"] == "true"


def test_a_generator_with_a_length_that_breaks_off_is_an_error_and_gives_the_key_back() -> None:
    app, _ = make_app()
    runs: list[int] = []

    @app.post("/x")
    def view() -> Any:
        def breaking() -> Iterator[bytes]:
            runs.append(1)
            yield b"12"
            raise ConnectionError

        return Response(breaking(), headers={"Content-Length": "4"})

    assert [post(app).status_code for _ in range(2)] == [500, 500]
    assert runs == [1, 1]


@pytest.mark.parametrize("length", ["3", "5"])
def test_a_response_that_is_not_as_long_as_it_says_is_sent_but_not_kept(length: str) -> None:
    app, _ = make_app()
    app.add_url_rule("/x", "x", lambda: Response([b"12", b"34"], headers={"Content-Length": length}), methods=["POST"])
    assert post(app).status_code == 200
    assert slug(post(app)) == "response-not-kept"


def test_a_stream_that_ends_before_it_is_as_long_as_it_says_is_not_kept() -> None:
    app, _ = make_app(max_response_bytes=1000)

    @app.post("/x")
    def view() -> Any:
        return Response((chunk for chunk in [b"cut"]), headers={"Content-Length": "2000"})

    assert post(app, buffered=True).data == b"cut"
    assert slug(post(app)) == "response-not-kept"


@pytest.mark.parametrize(("size", "kept"), [(1000, True), (5000, False)])
def test_a_file_is_sent_whole_and_kept_where_it_fits(size: int, kept: bool) -> None:
    app, _ = make_app(max_response_bytes=1000)
    runs: list[int] = []

    @app.post("/x")
    def view() -> Any:
        runs.append(1)
        return send_file(io.BytesIO(bytes(size)), download_name="a.bin")

    first = post(app, buffered=True)
    assert first.data == bytes(size)
    again = post(app, buffered=True)
    assert (again.data == first.data) == kept
    assert again.headers.get("Content-Disposition") == (first.headers["Content-Disposition"] if kept else None)
    assert runs == [1]


def test_a_stream_may_use_the_request_until_it_ends() -> None:
    app, _ = make_app()

    @app.post("/x")
    def view() -> Any:
        @stream_with_context
        def reading() -> Iterator[bytes]:
            while chunk := request.stream.read(3):
                yield chunk + b"|"

        return Response(reading())

    assert [post(app, data=b"abcdef").data for _ in range(2)] == [b"abc|def|"] * 2


def test_callbacks_at_the_end_of_a_stream_are_called_once() -> None:
    app, _ = make_app()
    closed: list[str] = []

    @app.post("/x")
    def view() -> Any:
        response = Response(chunks(closed))
        response.call_on_close(lambda: closed.append("callback"))
        return response

    assert post(app, buffered=True).data == b"".join(chunks())
    assert sorted(closed) == ["callback", "closed"]


@pytest.mark.parametrize("status", [200, 500])
def test_a_body_that_promised_to_be_short_and_never_ends_is_passed_on_from_where_it_is_too_long(status: int) -> None:
    app, _ = make_app(max_response_bytes=100)
    closed: list[str] = []
    taken: list[int] = []

    def endless() -> Iterator[bytes]:
        try:
            while len(taken) < 1000:
                taken.append(1)
                yield b"12345678"
        finally:
            closed.append("closed")

    app.add_url_rule("/x", "x", lambda: Response(endless(), status, headers={"Content-Length": "8"}), methods=["POST"])
    response = app.test_client().post("/x", headers={"Idempotency-Key": "k"}, buffered=False)
    passed = iter(response.response)
    assert [next(passed) for _ in range(20)] == [b"12345678"] * 20
    assert len(taken) < 50
    response.close()
    assert closed == ["closed"]
    if status == 200:
        assert slug(post(app)) == "response-not-kept"
    else:
        assert post(app).status_code == 500


@pytest.mark.parametrize("length", [None, "3000000"])
def test_a_stream_that_nobody_asks_for_since_the_method_is_head_is_kept_as_empty(length: str | None) -> None:
    app, _ = make_app(methods=("GET", "HEAD"))
    closed: list[str] = []
    runs: list[int] = []

    def view() -> Response:
        runs.append(1)
        return Response(chunks(closed), headers={"Content-Length": length} if length else None)

    app.add_url_rule("/x", "x", view)
    first, again = post(app, method="HEAD"), post(app, method="HEAD")
    assert [each.status_code for each in (first, again)] == [200, 200]
    assert [each.headers.get("Content-Length") for each in (first, again)] == [length, length]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (len(runs), again.data) == (1, b"")

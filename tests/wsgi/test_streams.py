"""Responses without an end in sight: nothing is held back, the record says so, and none runs twice."""

import gc
import io
import itertools
import sys
import threading
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper

import pytest

from flask_idempotency import IdempotencyMiddleware
from flask_idempotency.engine.events import Event, Outcome
from flask_idempotency.engine.heartbeat import heartbeat
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import MemoryStore
from tests.wsgi.harness import TEXT, Harness, note

EVENTS = ("Content-Type", "text/event-stream")


def test_each_event_leaves_when_it_is_yielded_and_the_record_says_so_before_the_first(monkeypatch: Any) -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [EVENTS])
        for number in range(3):
            server.log.append(f"yield {number}")
            yield b"data: %d\n\n" % number
        server.log.append("end")

    server = Harness(app)
    note(monkeypatch, server.log, answering="answering", complete="kept")
    assert server.ask().log == [
        *("yield 0", "answering", "start", "send"),
        *("yield 1", "send", "yield 2", "send", "end", "kept"),
    ]
    assert server.ask().body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


def test_each_write_leaves_when_it_is_made() -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        write = start("200 OK", [EVENTS])
        for number in range(3):
            server.log.append(f"write {number}")
            write(b"data: %d\n\n" % number)
        return [b"end"]

    server = Harness(app)
    assert server.ask().log == ["write 0", "start", "write", "write 1", "write", "write 2", "write", "send"]
    again = server.ask()
    assert (again.body, again.replayed) == (b"data: 0\n\ndata: 1\n\ndata: 2\n\nend", True)


def test_writes_within_the_promised_length_are_held_until_they_exceed_what_is_kept() -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        write = start("200 OK", [TEXT, ("Content-Length", "10")])
        for _ in range(4):
            server.log.append("w")
            write(b"xxxx")
        return [b"end"]

    server = Harness(app, max_response_bytes=10)
    answer = server.ask()
    assert answer.log == ["w", "w", "w", "start", "write", "write", "write", "w", "write", "send"]
    assert answer.body == b"xxxx" * 4 + b"end"
    assert server.ask().problem == "response-not-kept"


@pytest.mark.parametrize("way", ["yield", "write"])
def test_an_endless_response_passes_in_little_memory_and_never_runs_again(way: str) -> None:
    class Enough(Exception):
        pass

    chunk = bytes(64 * 1024)

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        write = start("200 OK", [EVENTS])
        while way == "write":
            write(chunk)
        return itertools.repeat(chunk)

    sent: list[int] = []

    def send(data: bytes) -> None:
        sent.append(len(data))
        if sum(sent) > 64 * 1024 * 1024:
            raise Enough

    server = Harness(app, inner=False, outer=False)

    def serve() -> None:
        chunks = server.served(server.environ(), lambda status, headers, exc_info=None: send)
        try:
            for data in chunks:
                send(data)
        finally:
            chunks.close()

    tracemalloc.start()
    try:
        with pytest.raises(Enough):
            serve()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1024 * 1024
    assert server.ask().problem == "response-not-kept"
    assert server.runs == 1


@pytest.mark.parametrize("inner", [True, False], ids=["validated", "as it is"])
@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("way", ["list", "generator", "file of known length", "write"])
def test_what_is_kept_ends_exactly_at_the_limit(way: str, extra: int, inner: bool) -> None:
    body = b"x" * (1000 + extra)

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        known = [("Content-Length", str(len(body)))] if "known" in way else []
        write = start("200 OK", [TEXT, *known])
        if way == "list":
            return [body[:500], body[500:]]
        if way == "write":
            write(body)
            return []
        return FileWrapper(io.BytesIO(body), 300) if "file" in way else iter([body[:999], body[999:]])

    server = Harness(app, inner=inner, max_response_bytes=1000)
    first, again = server.ask(), server.ask()
    assert first.body == body
    assert again.problem == "response-not-kept" if extra else again.body == body
    assert server.runs == 1


def test_a_body_that_promised_to_be_short_and_never_ends_is_passed_on_from_where_it_is_too_long() -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [TEXT, ("Content-Length", "4")])
        while True:
            taken.append(None)
            yield b"xxxx"

    taken: list[None] = []
    server = Harness(app, max_response_bytes=1000)
    answer = server.ask(stop_after=5)
    assert len(taken) < 300
    assert answer.body == b"xxxx" * (len(answer.body) // 4)
    assert len(answer.body) > 1000
    assert server.ask().problem == "response-not-kept"
    assert server.runs == 1


def test_an_error_page_of_unknown_length_is_kept_up_to_the_limit_too() -> None:
    """The head that promised little was replaced by one that promises nothing."""

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        write = start("200 OK", [TEXT, ("Content-Length", "4")])
        write(b"xx")
        yield b""
        try:
            raise ValueError
        except ValueError:
            start("500 Oops", [TEXT], sys.exc_info())
        for _ in range(300):
            yield b"sorry"

    for limit, code in ((1499, 409), (1500, 500)):
        server = Harness(app, keep="all", max_response_bytes=limit)
        assert server.ask().body == b"sorry" * 300
        assert server.ask().code == code
        assert server.runs == 1


def test_a_repeat_hears_while_the_stream_runs_that_it_cannot_have_it_and_afterwards_has_it() -> None:
    repeats: list[Any] = []

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [EVENTS])
        yield b"one"
        other = Harness(app, middleware=lambda app: server.middleware)
        repeats.append(other.ask())
        yield b"two"

    server = Harness(app)
    first, again = server.ask(), server.ask()
    assert (repeats[0].code, repeats[0].problem) == (409, "request-in-progress")
    assert (first.body, again.body, again.replayed, server.runs) == (b"onetwo", b"onetwo", True, 1)


def test_no_chunks_at_all_make_no_answer_of_unknown_length_a_tombstone() -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [EVENTS])
        yield from ()

    server = Harness(app)
    assert [server.ask().body for _ in range(2)] == [b"", b""]
    assert server.runs == 1


def test_one_of_many_writes_costs_no_more_than_one_of_few() -> None:
    """The bytes that are held are counted as they come, not from the beginning each time."""

    class Counted(bytes):
        asked = 0

        def __len__(self) -> int:
            Counted.asked += 1
            return 1

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        write = start("200 OK", [TEXT, ("Content-Length", "2000")])
        for _ in range(2000):
            write(Counted(b"x"))
        return []

    server = Harness(app, inner=False, outer=False)
    assert server.ask().body == b"x" * 2000
    assert Counted.asked < 10 * 2000


@pytest.mark.parametrize("headers", [[TEXT], [TEXT, ("Content-Length", "4")], [TEXT, ("Content-Length", "5000000")]])
@pytest.mark.parametrize("status", ["200 OK", "500 Oops"])
def test_a_store_that_fails_at_the_end_does_not_take_the_answer_from_the_client(status: str, headers: Any) -> None:
    class Failing(MemoryStore):
        down = False

        def complete(self, *arguments: Any, **options: Any) -> bool:
            """See `Store.complete`."""
            if self.down:
                raise StoreUnavailable("down")
            return super().complete(*arguments, **options)

        def release(self, *arguments: Any, **options: Any) -> bool:
            """See `Store.release`."""
            if self.down:
                raise StoreUnavailable("down")
            return super().release(*arguments, **options)

    store = Failing()
    outcomes: list[Outcome] = []
    caught_up = threading.Event()

    def observe(event: Event) -> None:
        if Outcome.DEFERRED in outcomes and event.outcome is not Outcome.DEFERRED:
            caught_up.set()
        outcomes.append(event.outcome)

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        store.down = server.runs == 1
        start(status, list(headers))
        yield b"xxxx"

    server = Harness(app, middleware=lambda app: IdempotencyMiddleware(app, store=store, observers=[observe]))
    chunks = server.served(server.environ(), lambda status, headers, exc_info=None: lambda data: None)
    assert b"".join(chunks) == b"xxxx"
    chunks.close()
    assert outcomes[:2] == [Outcome.CLAIMED, Outcome.DEFERRED]
    store.down = False
    assert caught_up.wait(30), "it is written as soon as the store is back"
    again = server.ask()
    if status == "500 Oops":
        assert (again.body, again.replayed, server.runs) == (b"xxxx", False, 2)
    elif ("Content-Length", "5000000") in headers:
        assert (again.problem, server.runs) == ("response-not-kept", 1)
    else:
        assert (again.body, again.replayed, server.runs) == (b"xxxx", True, 1)


def test_a_body_that_is_iterated_twice_by_its_own_iterators_is_closed_as_one() -> None:
    closed: list[Any] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"a", b"b"])

        def close(self) -> None:
            closed.append(self)

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [EVENTS])
        return Body()

    server = Harness(app)
    assert server.ask().body == b"ab"
    assert len(closed) == 1


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("status", ["200 OK", "500 Failed"])
def test_a_stream_that_is_dropped_without_being_closed_leaves_no_claim_behind(status: str, begun: bool) -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start(status, [EVENTS])
        return iter([b"one", b"two"])

    server = Harness(app, inner=False)
    held = len(heartbeat)
    # As by a middleware further out that answers something else and forgets what it had from us.
    dropped = server.middleware(server.environ(), lambda *args: None)
    if begun:
        next(iter(dropped))
    assert len(heartbeat) == held + 1
    del dropped
    gc.collect()
    assert len(heartbeat) == held
    again = server.ask()
    assert (again.problem if status == "200 OK" else again.code) in ("response-not-kept", 500)

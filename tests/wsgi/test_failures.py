"""An application that fails, at each stage: what the server hears, what a retry gets, what is held on to (nothing)."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from gevent import GreenletExit  # type: ignore[import-untyped]

from flask_idempotency import IdempotencyMiddleware
from flask_idempotency.engine.events import Event, Outcome
from flask_idempotency.stores import MemoryStore
from tests.wsgi.harness import TEXT, Harness, note

KNOWN = ("Content-Length", "4")


class Oops(Exception):
    pass


class Failing:
    """A body that fails where it is told to, and counts how often it is closed."""

    def __init__(self, chunks: int, *, iterating: BaseException | None = None, closing: BaseException | None = None):
        self.left = chunks
        self.iterating = iterating
        self.closing = closing
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self.left == 0:
            raise self.iterating or StopIteration
        self.left -= 1
        return b"xx"

    def close(self) -> None:
        self.closed += 1
        if self.closing:
            raise self.closing


class Stage:
    """An application that fails at one stage of its run, the first time; after that it answers."""

    def __init__(self, fail: Callable[[Any], Any]) -> None:
        self.fail: Callable[[Any], Any] | None = fail
        self.body: Failing | None = None

    def __call__(self, environ: Any, start: Any) -> Iterable[bytes]:
        if self.fail is None:
            start("200 OK", [TEXT])
            return [b"done"]
        fail, self.fail = self.fail, None
        answer = fail(start)
        self.body = answer if isinstance(answer, Failing) else None
        return answer  # type: ignore[no-any-return]


def at_once(start: Any) -> Any:
    raise Oops


def after_the_head(start: Any) -> Any:
    start("200 OK", [TEXT])
    raise Oops


def after_a_write_that_is_held(start: Any) -> Any:
    start("200 OK", [TEXT, KNOWN])(b"xx")
    raise Oops


def before_the_first_chunk(start: Any) -> Any:
    start("200 OK", [TEXT, KNOWN])
    return Failing(0, iterating=Oops())


def in_a_lazy_generator(start: Any) -> Any:
    raise Oops
    yield b""


def within_what_is_held(start: Any) -> Any:
    start("200 OK", [TEXT, KNOWN])
    return Failing(1, iterating=Oops())


def in_iteration_and_in_close(start: Any) -> Any:
    start("200 OK", [TEXT, KNOWN])
    return Failing(1, iterating=Oops(), closing=ZeroDivisionError())


def by_a_status_that_is_none(start: Any) -> Any:
    start("fine", [TEXT])
    return Failing(1)


def by_a_string_instead_of_bytes(start: Any) -> Any:
    start("200 OK", [TEXT])
    return ["text"]


def without_a_head(start: Any) -> Any:
    return Failing(1)


def without_a_head_and_body(start: Any) -> Any:
    return []


def by_two_heads(start: Any) -> Any:
    start("200 OK", [TEXT])
    start("200 OK", [TEXT])
    return Failing(1)


def while_a_failure_is_written(start: Any) -> Any:
    start("500 Oops", [TEXT])(b"xx")
    raise Oops


def while_a_failure_is_streamed(start: Any) -> Any:
    start("500 Oops", [TEXT])
    return Failing(1, iterating=Oops())


def while_a_failure_is_streamed_and_in_close(start: Any) -> Any:
    start("500 Oops", [TEXT])
    return Failing(1, iterating=Oops(), closing=ZeroDivisionError())


BEFORE_ANYTHING_WAS_SENT = [
    at_once,
    after_the_head,
    after_a_write_that_is_held,
    before_the_first_chunk,
    in_a_lazy_generator,
    within_what_is_held,
    in_iteration_and_in_close,
    by_a_status_that_is_none,
    by_a_string_instead_of_bytes,
    without_a_head,
    without_a_head_and_body,
    by_two_heads,
]


def fail(server: Harness) -> None:
    with pytest.raises((Oops, AssertionError, ValueError, TypeError, ZeroDivisionError)):
        server.ask()


@pytest.mark.parametrize("stage", BEFORE_ANYTHING_WAS_SENT)
def test_before_anything_was_sent_the_key_is_given_back(stage: Any) -> None:
    app = Stage(stage)
    server = Harness(app, inner=False, outer=False)
    fail(server)
    assert server.log == [], "nothing was sent"
    assert app.body is None or app.body.closed == 1
    again = server.ask()
    assert (again.body, again.replayed, server.runs) == (b"done", False, 2)


@pytest.mark.parametrize(
    "stage", [while_a_failure_is_written, while_a_failure_is_streamed, while_a_failure_is_streamed_and_in_close]
)
def test_within_an_answer_that_is_not_kept_the_key_is_given_back(stage: Any) -> None:
    app = Stage(stage)
    server = Harness(app, inner=False, outer=False)
    fail(server)
    assert app.body is None or app.body.closed == 1
    again = server.ask()
    assert (again.body, again.replayed, server.runs) == (b"done", False, 2)


def while_it_is_written(start: Any) -> Any:
    start("200 OK", [TEXT])(b"xx")
    raise Oops


def while_it_is_streamed(start: Any) -> Any:
    start("200 OK", [TEXT])
    return Failing(1, iterating=Oops())


def while_it_is_streamed_and_in_close(start: Any) -> Any:
    start("200 OK", [TEXT])
    return Failing(1, iterating=Oops(), closing=ZeroDivisionError())


def by_an_error_head_after_the_head_was_sent(start: Any) -> Any:
    write = start("200 OK", [TEXT])
    write(b"xx")
    try:
        raise Oops
    except Oops:
        start("500 Oops", [TEXT], sys.exc_info())


@pytest.mark.parametrize(
    "stage",
    [
        while_it_is_written,
        while_it_is_streamed,
        while_it_is_streamed_and_in_close,
        by_an_error_head_after_the_head_was_sent,
    ],
)
def test_once_the_head_was_sent_it_never_runs_again(stage: Any) -> None:
    app = Stage(stage)
    server = Harness(app, inner=False, outer=False)
    fail(server)
    assert app.body is None or app.body.closed == 1
    assert server.ask().problem == "response-not-kept"
    assert server.runs == 1


@pytest.mark.parametrize("headers", [[TEXT], [TEXT, KNOWN], [TEXT, ("Content-Length", "5000000")]])
def test_a_close_that_fails_loses_nothing(headers: Any) -> None:
    def closing(start: Any) -> Any:
        start("200 OK", headers)
        return Failing(2, closing=Oops())

    app = Stage(closing)
    server = Harness(app, inner=False, outer=False)
    fail(server)
    assert app.body is not None
    assert app.body.closed == 1
    again = server.ask()
    assert server.runs == 1
    assert again.replayed if len(headers) == 1 or KNOWN in headers else again.problem == "response-not-kept"


@pytest.mark.parametrize("torn_off", [SystemExit, KeyboardInterrupt, GreenletExit, GeneratorExit])
@pytest.mark.parametrize("stage", ["call", "iteration", "close after iteration"])
def test_being_torn_off_leaves_the_claim_to_lapse(torn_off: type[BaseException], stage: str) -> None:
    def torn(start: Any) -> Any:
        if stage == "call":
            raise torn_off
        start("200 OK", [TEXT, KNOWN])
        return Failing(1, iterating=torn_off(), closing=Oops() if "close" in stage else None)

    app = Stage(torn)
    server = Harness(app, inner=False, outer=False, lease=1000)
    with pytest.raises((torn_off, Oops)):
        server.ask()
    assert app.body is None or app.body.closed == 1
    again = server.ask()
    assert (again.problem, server.runs) == ("request-in-progress", 1)


@pytest.mark.parametrize("way", ["write", "yield"])
def test_an_error_head_replaces_what_was_held_back_with_the_head_before(way: str) -> None:
    """Nothing of it was sent: the client gets the error page and not half an answer before it."""

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        write = start("200 OK", [TEXT, ("Content-Length", "100")])
        if way == "write":
            write(b"half an answer")
        else:
            yield b"half an answer"
        try:
            raise Oops
        except Oops:
            start("500 Oops", [TEXT, ("Content-Length", "5")], sys.exc_info())
        yield b"sorry"

    server = Harness(app)
    answer = server.ask()
    assert (answer.status, answer.body) == ("500 Oops", b"sorry")
    assert dict(answer.headers)["Content-Length"] == "5"
    server.ask()
    assert server.runs == 2, "a failure gives the key back"


def test_an_error_head_that_is_kept_is_replayed_without_what_it_replaced() -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [TEXT, ("Content-Length", "100")])
        yield b"half an answer"
        try:
            raise Oops
        except Oops:
            start("500 Oops", [TEXT], sys.exc_info())
        yield b"sorry"

    server = Harness(app, keep="all")
    first, again = server.ask(), server.ask()
    assert (first.status, first.body) == (again.status, again.body) == ("500 Oops", b"sorry")
    assert (again.replayed, server.runs) == (True, 1)


def test_an_error_head_that_the_server_still_takes_is_what_is_kept() -> None:
    """A server sends no head before the first byte that is not empty: what a retry hears is what the client heard."""

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [TEXT])
        yield b""
        try:
            raise Oops
        except Oops:
            start("500 Oops", [TEXT, ("X-Error", "1")], sys.exc_info())
        yield b"sorry"

    server = Harness(app, keep="all")
    first, again = server.ask(), server.ask()
    assert (first.status, first.body) == (again.status, again.body) == ("500 Oops", b"sorry")
    assert again.headers[:-1] == first.headers
    outcomes: list[Outcome] = []

    def middleware(app: Any) -> Any:
        return IdempotencyMiddleware(app, store=MemoryStore(), observers=[lambda event: outcomes.append(event.outcome)])

    refused = Harness(app, middleware=middleware)
    assert refused.ask().status == "500 Oops"
    assert outcomes == [Outcome.CLAIMED, Outcome.RESPONSE_DROPPED], "the tombstone stood already, and no other attempt"
    assert refused.ask().problem == "response-not-kept"


@pytest.mark.parametrize("headers", [[TEXT], [TEXT, ("Content-Length", "100")], [TEXT, ("Content-Length", "4")]])
def test_an_error_head_after_the_head_was_sent_is_the_servers_to_raise(headers: Any) -> None:
    """Of unknown length, of one too large to keep, and longer than it says and than what is kept."""

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", headers)
        yield b"x" * 60
        try:
            raise Oops
        except Oops:
            start("500 Oops", [TEXT], sys.exc_info())
        yield b"never"

    server = Harness(app, max_response_bytes=50)
    with pytest.raises(Oops):
        server.ask()
    assert server.log == ["start", "send"]
    assert server.ask().problem == "response-not-kept"
    assert server.runs == 1


def test_a_head_that_the_server_refuses_never_runs_again() -> None:
    """The work was done: a server that would not send its answer does not undo it."""
    for headers in ([TEXT], [TEXT, KNOWN]):

        def app(environ: Any, start: Any, headers: Any = headers) -> Iterable[bytes]:
            start("200 OK", headers)
            return iter([b"xxxx"])

        server = Harness(app, inner=False, outer=False)

        def refuse(status: str, headers: Any, exc_info: Any = None) -> Any:
            raise Oops

        with pytest.raises(Oops):
            server.served(server.environ(), refuse)
        server.ask()
        assert server.runs == 1


class Fenced(MemoryStore):
    """A store in which another attempt has always come first by the time this one ends."""

    def answering(self, claim: Any, *, lease: float) -> bool:
        """See `Store.answering`."""
        return False

    def complete(self, claim: Any, response: Any, *, retention: float) -> bool:
        """See `Store.complete`."""
        return False

    def release(self, claim: Any, *, retention: float) -> bool:
        """See `Store.release`."""
        return False


@pytest.mark.parametrize("headers", [[TEXT], [TEXT, KNOWN], [TEXT, ("Content-Length", "5000000")]])
@pytest.mark.parametrize("how", ["list", "body", "write"])
def test_a_fenced_answer_is_not_sent_and_is_closed_once(how: str, headers: Any) -> None:
    told: list[Event] = []
    bodies: list[Failing] = []

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        write = start("200 OK", headers)
        if how == "list":
            return [b"xxxx"]
        bodies.append(Failing(2))
        if how == "write":
            write(b"xx")
            write(b"yy")
            write(b"zz")
        return bodies[-1]

    def middleware(app: Any) -> Any:
        return IdempotencyMiddleware(app, store=Fenced(), observers=[told.append])

    server = Harness(app, middleware=middleware)
    answer = server.ask()
    assert (answer.code, answer.problem) == (409, "claim-lost")
    assert dict(answer.headers)["Retry-After"] == "1"
    assert [body.closed for body in bodies] == [1] * len(bodies)
    assert [event.outcome for event in told] == [Outcome.CLAIMED, Outcome.FENCED]


def test_a_fenced_answer_whose_close_fails_is_closed_once() -> None:
    body = Failing(2, closing=Oops())

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [TEXT, KNOWN])
        return body

    def middleware(app: Any) -> Any:
        return IdempotencyMiddleware(app, store=Fenced())

    server = Harness(app, middleware=middleware, inner=False, outer=False)
    with pytest.raises(Oops):
        server.ask()
    assert body.closed == 1


def test_a_failing_answer_that_breaks_off_gives_the_key_back_only_when_it_has_ended() -> None:
    """As long as a 500 is on its way its handler may be at work, and no repeat is let in beside it."""

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("500 Oops", [TEXT])
        yield b"x"
        released.append(Outcome.RELEASED in outcomes)
        yield b"y"

    released: list[bool] = []
    outcomes: list[Outcome] = []

    def middleware(app: Any) -> Any:
        return IdempotencyMiddleware(app, store=MemoryStore(), observers=[lambda event: outcomes.append(event.outcome)])

    server = Harness(app, middleware=middleware)
    server.ask()
    assert released == [False]
    assert outcomes == [Outcome.CLAIMED, Outcome.RELEASED]


def test_the_head_is_sent_only_after_the_end_of_the_attempt_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for headers, expected in (
        ([TEXT, KNOWN], ["kept", "start", "send"]),
        ([TEXT], ["answering", "start", "send", "send", "kept"]),
        ([TEXT, ("Content-Length", "5000000")], ["kept", "start", "send", "send"]),
    ):

        def app(environ: Any, start: Any, headers: Any = headers) -> Iterable[bytes]:
            start("200 OK", list(headers))
            return iter([b"xx", b"yy"])

        server = Harness(app)
        with monkeypatch.context() as patched:
            note(patched, server.log, answering="answering", complete="kept")
            assert server.ask().log == expected

"""Whatever an application does, its client hears the same with the middleware as without it, and never a second run."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.wsgi.harness import TEXT, Answer, Harness

#: What is kept of a response at most.
LIMIT = 20

CHUNKS = st.lists(st.binary(max_size=12), max_size=4)


class Oops(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Plan:
    """What an application does."""

    status: Literal["200 OK", "500 Oops", "204 No Content"]
    written: list[bytes]
    yielded: list[bytes]
    way: Literal["list", "tuple", "iterator", "closing", "generator"]
    length: Literal["none", "true", "short", "long"]
    fails: Literal["not", "in the call", "in iteration", "in close"]

    @property
    def body(self) -> bytes:
        return b"".join(self.written + self.yielded)

    @property
    def headers(self) -> list[tuple[str, str]]:
        headers = [] if self.status.startswith("204") else [TEXT]
        if self.length != "none":
            more = {"true": 0, "short": -1, "long": 1}[self.length]
            headers.append(("Content-Length", str(max(0, len(self.body) + more))))
        return headers


class Chunks:
    def __init__(self, plan: Plan, log: list[str]) -> None:
        self.plan = plan
        self.log = log
        self.chunks = iter(plan.yielded)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = next(self.chunks, None)
        if chunk is None:
            if self.plan.fails == "in iteration":
                raise Oops
            raise StopIteration
        return chunk

    def close(self) -> None:
        self.log.append("close")
        if self.plan.fails == "in close":
            raise Oops


def application(plan: Plan, log: list[str]) -> Any:
    def call(start: Any) -> None:
        write = start(plan.status, plan.headers)
        for data in plan.written:
            write(data)
        if plan.fails == "in the call":
            raise Oops

    def generate(start: Any) -> Iterable[bytes]:
        call(start)
        yield from Chunks(plan, log)

    def app(environ: Any, start: Any) -> Any:
        if plan.way == "generator":
            return generate(start)
        call(start)
        match plan.way:
            case "list":
                return list(plan.yielded)
            case "tuple":
                return tuple(plan.yielded)
            case "iterator":
                return iter(plan.yielded)
        return Chunks(plan, log)

    return app


def heard(server: Harness) -> Answer | None:
    """What a client hears, or None where the server has an error to handle."""
    try:
        return server.ask()
    except Oops:
        return None


@settings(max_examples=300, deadline=None)
@given(
    st.builds(
        Plan,
        status=st.sampled_from(["200 OK", "500 Oops", "204 No Content"]),
        written=CHUNKS,
        yielded=CHUNKS,
        way=st.sampled_from(["list", "tuple", "iterator", "closing", "generator"]),
        length=st.sampled_from(["none", "true", "short", "long"]),
        fails=st.sampled_from(["not", "not", "not", "in the call", "in iteration", "in close"]),
    ),
    st.booleans(),
)
def test_a_client_hears_what_it_would_without_the_middleware_and_nothing_runs_twice(plan: Plan, inner: bool) -> None:
    bare_log: list[str] = []
    log: list[str] = []
    bare = heard(Harness(application(plan, bare_log), middleware=lambda app: app))
    server = Harness(application(plan, log), inner=inner, max_response_bytes=LIMIT)
    first = heard(server)
    assert log == bare_log, "closed as often as without"
    if bare is None or first is None:
        assert bare is first
    else:
        assert (first.status, first.headers, first.body) == (bare.status, bare.headers, bare.body)
    runs = server.runs
    again = heard(server)
    done = plan.status != "500 Oops" and server.runs == runs
    event(f"{'done' if done else 'ran again'}, {'failed' if first is None else 'answered'}")
    if first is not None and plan.status != "500 Oops":
        assert again is not None
        assert server.runs == 1, "an answer was heard, and it ran again"
        if again.replayed:
            assert (again.status, again.body) == (first.status, first.body)
            assert again.headers[:-1] == first.headers
        else:
            assert again.problem == "response-not-kept"
            unlike = plan.length in ("short", "long") or (plan.status.startswith("204") and plan.body)
            assert len(plan.body) > LIMIT or unlike
    if plan.status == "500 Oops" or plan.fails == "in the call":
        assert again is None or not again.replayed


@settings(max_examples=300, deadline=None)
@given(CHUNKS, CHUNKS, CHUNKS, st.sampled_from(["none", "true"]), st.booleans())
def test_an_error_head_takes_the_place_of_what_was_held_or_breaks_off_what_was_sent(
    written: list[bytes], yielded: list[bytes], page: list[bytes], length: str, kept: bool
) -> None:
    promised = [("Content-Length", str(len(b"".join(written + yielded))))] if length == "true" else []

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        write = start("200 OK", [TEXT, *promised])
        for data in written:
            write(data)
        yield from yielded
        try:
            raise Oops
        except Oops:
            start("500 Oops", [TEXT], sys.exc_info())
        yield from page

    server = Harness(app, keep="all" if kept else "success", max_response_bytes=LIMIT)
    answer, again = heard(server), heard(server)
    if answer is None:
        assert written or b"".join(yielded), "nothing had been sent"
        assert again is not None
        assert (again.code, server.runs) == (409, 1)
        return
    assert (answer.status, answer.body) == ("500 Oops", b"".join(page))
    assert again is not None
    if kept:
        assert (again.replayed or len(answer.body) > LIMIT, server.runs) == (True, 1)
    elif yielded and length == "none":
        assert (again.problem, server.runs) == ("response-not-kept", 1), "the stream had begun, if with nothing"
    else:
        assert (again.replayed, server.runs) == (False, 2)
    if again.replayed:
        assert (again.status, again.body) == (answer.status, answer.body)

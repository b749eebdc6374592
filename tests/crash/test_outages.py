"""A store that is away for longer than the lease, while one process has done the work and another is asked again."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from .gunicorn import TIMEOUT, Answer, Server, Till

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn needs a system with fork")

LEASE = 1.5


@contextmanager
def nothing_can_be_written(till: Till) -> Iterator[None]:
    """Another has locked the file, for longer than anybody waits."""
    locker = sqlite3.connect(till.environ["TILL_STORE"], isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        locker.execute("ROLLBACK")
        locker.close()


def ask_for(seconds: float, server: Server, key: str, payload: object) -> list[Answer]:
    """Ask again and again, for so long or until it is answered."""
    answers: list[Answer] = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and (not answers or answers[-1].status in (0, 409, 503)):
        answers.append(server.pay(key, payload))
    return answers


def test_work_that_was_done_is_not_done_again_however_soon_somebody_else_is_asked(
    open_till: Callable[..., Till],
) -> None:
    till = open_till(lease=LEASE, busy_timeout=0.1)
    worker, other = till.serve(kind="gthread", threads=2), till.serve(kind="gthread", threads=2)
    for key in ("1", "2", "3", "4"):
        payload = till.gate(key)
        first = worker.start_paying(key, payload)
        till.entered(key)
        with nothing_can_be_written(till):
            till.open(key)
            answer = first.answer()
            assert (answer.status, answer.replayed) == (201, False)  # it goes out all the same
            assert {heard.status for heard in ask_for(LEASE + 0.5, other, key, payload)} <= {409, 503}
        replay = ask_for(TIMEOUT, other, key, payload)[-1]
        assert (replay.json, replay.replayed) == (answer.json, True)
        assert till.runs()[key] == 1


def test_where_the_policy_says_so_an_answer_that_is_not_written_does_not_go_out(open_till: Callable[..., Till]) -> None:
    till = open_till(busy_timeout=0.1, on_completion_error="refuse")
    server = till.serve(kind="gthread", threads=2)
    payload = till.gate("gate")
    first = server.start_paying("k", payload)
    till.entered("gate")
    with nothing_can_be_written(till):
        till.open("gate")
        refused = first.answer()
        assert (refused.status, refused.problem) == (503, "store-unavailable")
        assert server.pay("k", payload).problem == "request-in-progress"
    assert ask_for(TIMEOUT, server, "k", payload)[-1].replayed
    assert till.runs() == {"k": 1}


def test_a_key_that_could_not_be_given_back_is_as_soon_as_it_can_be(open_till: Callable[..., Till]) -> None:
    till = open_till(busy_timeout=0.1)
    server = till.serve(kind="gthread", threads=2)
    payload = till.gate("gate")
    first = server.start_paying("k", payload)
    till.entered("gate")
    with nothing_can_be_written(till):
        till.open("gate", "fail", attempt=1)
        assert first.answer().status == 500
        assert server.pay("k", payload).problem == "request-in-progress"
    till.open("gate")
    again = ask_for(TIMEOUT, server, "k", payload)[-1]
    assert (again.status, again.json["number"], again.json["lapsed"]) == (201, 2, False)

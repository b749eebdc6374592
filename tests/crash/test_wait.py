"""Repeats that wait for the first: woken soon, for a bounded time, and never by every worker thread."""

import os
import time
from collections.abc import Callable

import pytest

from .gunicorn import Till, until

OpenTill = Callable[..., Till]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn needs a system with fork")

#: Far longer than any test may take: who waits for so long was not woken.
LONG = 300.0


@needs_fork
def test_a_repeat_is_woken_by_the_end_of_the_first_in_its_process_and_in_another(open_till: OpenTill) -> None:
    till = open_till(wait=LONG)
    same, other = till.serve(kind="gthread", threads=4), till.serve(kind="gthread", threads=4)
    payload = till.gate("gate")
    first = same.start_paying("k", payload)
    till.entered("gate")
    repeats = [same.start_paying("k", payload), other.start_paying("k", payload)]
    time.sleep(0.3)
    assert not any(repeat.done() for repeat in repeats)
    till.open("gate")
    answer = first.answer()
    assert answer.status == 201
    for repeat in repeats:
        assert (repeat.answer().json, repeat.answer().replayed) == (answer.json, True)
    assert till.runs() == {"k": 1}


@needs_fork
def test_a_repeat_waits_no_longer_than_it_may(open_till: OpenTill) -> None:
    till = open_till(wait=0.5)
    server = till.serve(kind="gthread", threads=4)
    payload = till.gate("gate")
    server.start_paying("k", payload)
    till.entered("gate")
    began = time.monotonic()
    refused = server.pay("k", payload)
    assert (refused.status, refused.problem) == (409, "request-in-progress")
    assert time.monotonic() - began >= 0.5
    till.open("gate")


@needs_fork
def test_waiting_repeats_leave_threads_for_everybody_else(open_till: OpenTill) -> None:
    till = open_till(wait=LONG)
    server = till.serve(kind="gthread", threads=6)
    payload = till.gate("gate")
    first = server.start_paying("k", payload)
    till.entered("gate")
    repeats = [server.start_paying("k", payload) for _ in range(12)]
    # Those that found no seat were told so; the others wait on, and still there is a thread for a GET.
    until(lambda: sum(repeat.done() for repeat in repeats) >= 8)
    for _ in range(5):
        assert server.get() == 200
    waiting = [repeat for repeat in repeats if not repeat.done()]
    assert len(waiting) == 4
    till.open("gate")
    assert first.answer().status == 201
    for repeat in repeats:
        answer = repeat.answer()
        assert answer.replayed if repeat in waiting else answer.problem == "request-in-progress"
    assert till.runs() == {"k": 1}


@needs_fork
def test_a_server_without_threads_lets_nobody_wait(open_till: OpenTill) -> None:
    till = open_till(wait=LONG)
    server = till.serve(workers=2)
    payload = till.gate("gate")
    first = server.start_paying("k", payload)
    till.entered("gate")
    for _ in range(3):
        assert server.pay("k", payload).problem == "request-in-progress"
    till.open("gate")
    assert first.answer().status == 201

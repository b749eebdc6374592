"""What cuts a connection whose server is silent, and never one that has gone on to serve somebody else."""

import socket
import threading
from collections.abc import Iterator

import pytest

from flask_idempotency.stores.watchdog import Watchdog

PATIENCE = 20.0


@pytest.fixture
def watchdog() -> Watchdog:
    return Watchdog()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE)
        theirs.settimeout(PATIENCE)
        yield ours, theirs


Ends = tuple[socket.socket, socket.socket]


def test_who_waits_too_long_finds_the_connection_ended(watchdog: Watchdog, ends: Ends) -> None:
    with watchdog.bound(ends[0].fileno, 0):
        assert ends[0].recv(1) == b""


def test_who_is_served_in_time_keeps_the_connection(watchdog: Watchdog, ends: Ends) -> None:
    other, others_server = socket.socketpair()
    other.settimeout(PATIENCE)
    with other, others_server, watchdog.bound(ends[0].fileno, PATIENCE), watchdog.bound(other.fileno, 0):
        assert other.recv(1) == b""
    ends[1].send(b"x")
    assert ends[0].recv(1) == b"x"


def test_a_connection_that_was_closed_meanwhile_does_not_stop_it(watchdog: Watchdog, ends: Ends) -> None:
    asked = threading.Event()

    def closed() -> int:
        asked.set()
        raise OSError("the connection is closed")

    with watchdog.bound(closed, 0), watchdog.bound(ends[0].fileno, 0):
        assert asked.wait(PATIENCE)
        assert ends[0].recv(1) == b""


def test_nobody_goes_on_to_use_what_is_being_cut(watchdog: Watchdog, ends: Ends) -> None:
    cutting, go_on = threading.Event(), threading.Event()

    def descriptor() -> int:
        cutting.set()
        go_on.wait(PATIENCE)
        return ends[0].fileno()

    waiting = watchdog.watch(descriptor, 0)
    assert cutting.wait(PATIENCE)
    letting_go = threading.Thread(target=watchdog.let_go, args=[waiting])
    letting_go.start()
    letting_go.join(0.2)
    assert letting_go.is_alive()
    go_on.set()
    letting_go.join(PATIENCE)
    assert not letting_go.is_alive()
    assert ends[0].recv(1) == b""


def test_a_call_is_not_cut_for_an_earlier_one_on_its_connection_that_was_seen_to_be_late(
    watchdog: Watchdog, ends: Ends
) -> None:
    seen, go_on = threading.Event(), threading.Event()

    def slow() -> int:
        seen.set()
        go_on.wait(PATIENCE)
        raise OSError("the connection is closed")

    watchdog._waiting[object()] = 0, slow  # before the thread is there, so that it sees both at once
    earlier = watchdog.watch(ends[0].fileno, 0)
    assert seen.wait(PATIENCE)
    watchdog.let_go(earlier)
    last, lasts_server = socket.socketpair()
    last.settimeout(PATIENCE)
    with watchdog.bound(ends[0].fileno, PATIENCE), last, lasts_server, watchdog.bound(last.fileno, 0):
        go_on.set()
        assert last.recv(1) == b""
    ends[1].send(b"x")
    assert ends[0].recv(1) == b"x"


def test_a_stranger_who_has_the_number_of_a_socket_that_was_closed_meanwhile_is_not_cut(
    watchdog: Watchdog, ends: Ends
) -> None:
    """A driver closes its socket when the server ends it, in the moment of the cut perhaps."""
    numbers = [ends[0].fileno(), -1]
    last, lasts_server = socket.socketpair()
    last.settimeout(PATIENCE)
    with last, lasts_server:
        with watchdog.bound(lambda: numbers.pop(0), 0), watchdog.bound(last.fileno, 0):
            assert last.recv(1) == b""
        assert not numbers
    ends[1].send(b"x")
    assert ends[0].recv(1) == b"x"


def test_one_thread_watches_over_all(watchdog: Watchdog) -> None:
    before = threading.active_count()
    start = threading.Barrier(16)

    def watch() -> None:
        start.wait(PATIENCE)
        with watchdog.bound(lambda: -1, PATIENCE):
            pass

    threads = [threading.Thread(target=watch) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert threading.active_count() == before + 1

"""Real servers, with hooks and with the middleware: each serves, and stays well when a client does not."""

import http.client
import itertools
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.app import LARGE
from tests.servers.client import Answer, ask, connect, head, hear, read_all, read_until, seen
from tests.servers.launch import COMMANDS, WITHOUT_THREADS, Server, serve

#: Servers that hand a chunked body on.
CHUNKED = {"flask run", "waitress", "gunicorn sync", "gunicorn gthread", "gunicorn gevent"}
#: Servers that keep a connection open for the next request.
KEEP_ALIVE = {"waitress", "gunicorn gthread", "gunicorn gevent"}
#: Servers that ask for a body that waits to be asked for.
CONTINUE = set(COMMANDS) - {"wsgiref", "uWSGI"}

_keys = itertools.count()


@dataclass(frozen=True, slots=True)
class Served:
    """One application on one server."""

    kind: str
    server: Server
    folder: Path


@pytest.fixture(
    scope="module", params=[(kind, app) for kind in COMMANDS for app in ("hooks", "middleware")], ids=", ".join
)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    kind, app = request.param
    folder = tmp_path_factory.mktemp("served")
    with serve(kind, f"tests.servers.app:{app}", env={"FOLDER": str(folder)}, threads=2) as server:
        yield Served(kind, server, folder)


@pytest.fixture
def server(served: Served) -> Server:
    return served.server


@pytest.fixture
def key() -> str:
    return f"key-{next(_keys)}"


def test_a_keyed_post_its_replay_and_a_get(server: Server, key: str) -> None:
    before = len(seen(server))
    first, again = ask(server, key=key), ask(server, key=f'"{key}"')
    assert (first.status, first.json["body"], first.replayed) == (201, "book", False)
    assert (again.status, again.body, again.replayed) == (201, first.body, True)
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert seen(server)[before:] == ["book"]


def test_bad_input_gets_a_problem_and_runs_nothing(server: Server, key: str) -> None:
    ask(server, key=key)
    before = seen(server)
    assert ask(server, key=key, body=b"pen").problem == "idempotency-key-reused"
    assert ask(server).problem == "idempotency-key-missing"
    assert ask(server, key="").problem == "idempotency-key-malformed"
    assert ask(server, key="k" * 256).problem == "idempotency-key-malformed"
    assert ask(server, key='"torn').problem == "idempotency-key-malformed"
    form = "multipart/form-data; boundary=b"
    assert ask(server, key=key, body=b"--x", Content_Type=form).problem == "idempotency-key-reused"
    with connect(server) as connection:
        same = f"Idempotency-Key: {key}"
        connection.sendall(head(same, same, "Content-Length: 0", "Connection: close"))
        assert b" 400 " in read_all(connection).split(b"\r\n")[0]
    assert seen(server) == before


def test_a_chunked_post_that_the_server_does_not_read_is_refused(served: Served, key: str) -> None:
    if served.kind in CHUNKED:
        pytest.skip(f"{served.kind} reads it")
    before = seen(served.server)
    with connect(served.server) as connection:
        chunked = head(f"Idempotency-Key: {key}", "Transfer-Encoding: chunked", "Connection: close")
        connection.sendall(chunked + b"4\r\nbook\r\n0\r\n\r\n")
        assert b"body-incomplete" in read_all(connection)
    assert seen(served.server) == before


@pytest.mark.parametrize("size", [4, 300_000])
def test_a_chunked_post_and_its_replay(served: Served, size: int, key: str) -> None:
    if served.kind not in CHUNKED:
        pytest.skip(f"{served.kind} does not read it")
    server, body = served.server, "x" * size
    before = len(seen(server))

    def ask_in_chunks(*chunks: str) -> Answer:
        return ask(server, key=key, body=iter([chunk.encode() for chunk in chunks]))

    first, again = ask_in_chunks(body), ask_in_chunks(body[:1], body[1:])
    assert (first.status, first.json["body"], first.replayed) == (201, body, False)
    assert (again.status, again.body, again.replayed) == (201, first.body, True)
    assert ask_in_chunks(body, "!").problem == "idempotency-key-reused"
    assert seen(server)[before:] == [body]


@pytest.mark.parametrize(("sent", "length"), [(0, 10), (9, 10), (9, 300_000), (200_000, 300_000)])
@pytest.mark.parametrize("ending", ["half-closed", "closed"])
def test_a_body_that_stops_short_leaves_no_claim(server: Server, ending: str, sent: int, length: int, key: str) -> None:
    before = len(seen(server))
    with connect(server) as connection:
        connection.sendall(head(f"Idempotency-Key: {key}", f"Content-Length: {length}") + b"x" * sent)
        if ending == "half-closed":
            connection.shutdown(socket.SHUT_WR)
            assert b" 201 " not in read_all(connection)
    answer = ask(server, key=key, body=b"another")
    assert (answer.status, answer.replayed) == (201, False)
    assert seen(server)[before:] == ["another"]


@pytest.mark.parametrize(
    "sent", [b"", b"5", b"5\r\n", b"5\r\nbo", b"5\r\nbooks", b"5\r\nbooks\r\n", b"5\r\nbooks\r\n0"]
)
def test_a_chunked_body_that_stops_short_leaves_no_claim(server: Server, sent: bytes, key: str) -> None:
    before = len(seen(server))
    with connect(server) as connection:
        connection.sendall(head(f"Idempotency-Key: {key}", "Transfer-Encoding: chunked") + sent)
        connection.shutdown(socket.SHUT_WR)
        assert b" 201 " not in read_all(connection)
    answer = ask(server, key=key, body=b"another")
    assert (answer.status, answer.replayed) == (201, False)
    assert seen(server)[before:] == ["another"]


@pytest.mark.parametrize("chunk", [b"nonsense\r\n", b"-1\r\n\r\n", b"5\r\nbooksXX0\r\n\r\n"])
def test_chunks_that_are_none_are_a_bad_request_and_leave_no_claim(server: Server, chunk: bytes, key: str) -> None:
    before = len(seen(server))
    with connect(server) as connection:
        connection.sendall(head(f"Idempotency-Key: {key}", "Transfer-Encoding: chunked", "Connection: close") + chunk)
        connection.shutdown(socket.SHUT_WR)
        assert b" 400 " in read_all(connection).split(b"\r\n")[0]
    answer = ask(server, key=key, body=b"another")
    assert (answer.status, answer.replayed) == (201, False)
    assert seen(server)[before:] == ["another"]


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(served: Served, key: str) -> None:
    with connect(served.server) as connection:
        connection.sendall(
            head(f"Idempotency-Key: {key}", "Content-Length: 4", "Expect: 100-continue", "Connection: close")
        )
        if served.kind in CONTINUE:
            assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"book")
        assert b'"body":"book"' in read_all(connection)
    assert ask(served.server, key=key).replayed


def test_two_requests_one_after_the_other_on_one_connection(served: Served, key: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.server.port, timeout=20)
    sockets = set()
    answers = []
    try:
        for body in (b"book", b"book", b"pen"):
            connection.request("POST", "/orders", body, {"Idempotency-Key": key})
            sockets.add(connection.sock)
            answers.append(hear(connection))
    finally:
        connection.close()
    assert [answer.status for answer in answers] == [201, 201, 422]
    assert answers[0].body == answers[1].body
    assert (len(sockets) == 1) == (served.kind in KEEP_ALIVE)


def test_a_refusal_of_a_body_that_nobody_read_leaves_the_connection_usable(served: Served, key: str) -> None:
    if served.kind not in KEEP_ALIVE:
        pytest.skip(f"{served.kind} closes it")
    connection = http.client.HTTPConnection("127.0.0.1", served.server.port, timeout=20)
    try:
        for named, status in ((key * 100, 400), (key, 201)):
            connection.request("POST", "/orders", b"x" * 30_000, {"Idempotency-Key": named})
            assert hear(connection).status == status
    finally:
        connection.close()


@pytest.mark.parametrize(
    "named", [(), ("Idempotency-Key: ",), ('Idempotency-Key: torn"',)], ids=["missing", "empty", "torn"]
)
def test_a_client_whose_body_nobody_wants_may_send_it_and_hears_why(server: Server, named: tuple[str, ...]) -> None:
    """A server that closes with a body unread resets the connection, and the client hears that only."""
    piece, pieces = b"x" * 80_000, 10
    with connect(server) as connection:
        connection.sendall(head(*named, f"Content-Length: {len(piece) * pieces}", "Connection: close"))
        for _ in range(pieces):
            select.select([connection], [], [], 0.02)  # so long, or until it is refused already
            connection.sendall(piece)
        heard = read_all(connection)
    assert heard.split(b" ", 2)[1] == b"400"
    assert b"idempotency-key-" + (b"malformed" if named else b"missing") in heard


def test_two_requests_sent_at_once_are_two_requests(served: Served, key: str) -> None:
    """Whoever reads past the first body takes the second request for a part of it."""
    before = len(seen(served.server))
    with connect(served.server) as connection:
        connection.sendall(
            head(f"Idempotency-Key: {key}-1", "Content-Length: 4")
            + b"book"
            + head(f"Idempotency-Key: {key}-2", "Content-Length: 3", "Connection: close")
            + b"pen"
        )
        heard = read_all(connection)
    bodies = ["book", "pen"] if served.kind in KEEP_ALIVE else ["book"]
    assert heard.count(b"HTTP/1.") == len(bodies)
    assert seen(served.server)[before:] == bodies


def test_an_event_leaves_when_it_is_yielded_and_the_stream_is_replayed_whole(served: Served, key: str) -> None:
    path = f"/events?gate={key}"
    with connect(served.server) as connection:
        connection.sendall(head(f"Idempotency-Key: {key}", "Content-Length: 0", "Connection: close", path=path))
        first = read_until(connection, b"data: 1\n\n")
        assert b"data: 2" not in first
        (served.folder / key).touch()
        assert b"data: 2\n\n" in read_all(connection)
    again = ask(served.server, path=path, body=b"", key=key)
    assert (again.body, again.replayed) == (b"data: 1\n\ndata: 2\n\n", True)


def test_a_client_that_leaves_a_stream_is_told_that_its_answer_was_not_kept(served: Served, key: str) -> None:
    path = f"/events?gate={key}"
    with connect(served.server) as connection:
        connection.sendall(head(f"Idempotency-Key: {key}", "Content-Length: 0", "Connection: close", path=path))
        read_until(connection, b"data: 1\n\n")
        repeat = None if served.kind == "gunicorn sync" else ask(served.server, path=path, body=b"", key=key)
    (served.folder / key).touch()
    assert repeat is None or repeat.problem == "request-in-progress"
    # The server may or may not find out: the stream ended whole for it, or broke off. It runs once, either way.
    again = ask_until_settled(served.server, path, key)
    assert again.replayed if again.status == 200 else again.problem == "response-not-kept"


def ask_until_settled(server: Server, path: str, key: str) -> Answer:
    ends = time.monotonic() + 20
    while (answer := ask(server, path=path, body=b"", key=key)).headers["Retry-After"]:
        assert time.monotonic() < ends
        time.sleep(0.01)
    return answer


@pytest.mark.parametrize("way", ["file", "memory"])
@pytest.mark.parametrize("size", [1000, LARGE])
def test_a_file_is_sent_whole_and_kept_if_it_is_small(served: Served, way: str, size: int, key: str) -> None:
    path = f"/{way}/{size}"
    first, again = ask(served.server, path=path, body=b"", key=key), ask_until_settled(served.server, path, key)
    expected = bytes(size) if way == "memory" else (served.folder / f"{size}.bin").read_bytes()
    assert (first.status, first.body, first.headers["Content-Length"]) == (200, expected, str(size))
    if size == LARGE:
        assert again.problem == "response-not-kept"
    else:
        assert (again.status, again.body, again.replayed) == (200, expected, True)


def test_nothing_is_an_answer_that_is_replayed_too(server: Server, key: str) -> None:
    before = len(seen(server))
    first, again = (ask(server, path="/nothing", key=key) for _ in range(2))
    assert (first.status, first.body, first.replayed) == (204, b"", False)
    assert (again.status, again.body, again.replayed) == (204, b"", True)
    assert seen(server)[before:] == ["nothing"]


def test_a_request_that_fails_runs_again(server: Server, key: str) -> None:
    before = len(seen(server))
    assert [ask(server, path="/error", key=key).status for _ in range(2)] == [500, 500]
    assert seen(server)[before:] == ["error", "error"]


@pytest.mark.parametrize("kind", WITHOUT_THREADS)
def test_a_server_in_which_no_heartbeat_can_run_is_told_so(kind: str, tmp_path: Path) -> None:
    env = {"FOLDER": str(tmp_path)}
    with serve(kind, "tests.servers.app:hooks", env=env, command=WITHOUT_THREADS[kind]) as server:
        assert "--enable-threads" not in server.said()
        assert ask(server, key="k").status == 201
        assert ask(server, key="k").replayed
        assert "uWSGI runs without threads, so claims are not renewed" in server.said()

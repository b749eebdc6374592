"""Real servers: each serves a keyed POST, its replay and a GET, and stays well when a client does not."""

import hashlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.launch import COMMANDS, Server, serve

CHUNKED = {"gunicorn sync", "gunicorn gthread", "gunicorn gevent", "waitress", "flask run"}


@pytest.fixture(scope="module", params=[(kind, name) for kind in COMMANDS for name in ("app", "wrapped")], ids=" ".join)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Server]]:
    kind, name = request.param
    if kind == "flask run" and name == "wrapped":
        pytest.skip("flask run serves Flask applications alone")
    store = tmp_path_factory.mktemp("store") / "idempotency.db"
    with serve(kind, f"tests.servers.app:{name}", env={"STORE": str(store)}) as server:
        yield kind, server


def ask(server: Server, method: str = "POST", path: str = "/orders", body: Any = b"book", **headers: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.headers, json.loads(response.read())
    finally:
        connection.close()


def test_a_keyed_post_its_replay_and_a_get(served: tuple[str, Server]) -> None:
    _, server = served
    status, headers, first = ask(server, Idempotency_Key="k")
    assert (status, first["body"], headers["Idempotent-Replayed"]) == (201, "book", None)
    status, headers, again = ask(server, Idempotency_Key='"k"')
    assert (status, again, headers["Idempotent-Replayed"]) == (201, first, "true")
    assert ask(server, body=b"pen", Idempotency_Key="k")[0] == 422
    assert ask(server)[0] == 400
    assert ask(server, "GET", body=None)[2] == {"method": "GET"}


def test_a_key_sent_twice_is_refused(served: tuple[str, Server]) -> None:
    _, server = served
    request = (
        b"POST /orders HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: a\r\nIdempotency-Key: a\r\n"
        b"Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
    assert b" 400 " in raw(server, request).split(b"\r\n")[0]


def test_a_chunked_post(served: tuple[str, Server]) -> None:
    kind, server = served
    if kind not in CHUNKED:
        pytest.skip(f"{kind} does not read chunked requests")
    answers = [ask(server, body=iter([b"bo", b"ok"]), Idempotency_Key="chunked") for _ in range(2)]
    assert [(status, heard["body"]) for status, _, heard in answers] == [(201, "book")] * 2
    assert answers[1][1]["Idempotent-Replayed"] == "true"


def test_a_client_that_breaks_off_in_mid_body_leaves_no_claim(served: tuple[str, Server]) -> None:
    _, server = served
    head = b"POST /orders HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: cut\r\nContent-Length: 100\r\n\r\n"
    raw(server, head + b"only this", half_close=True)
    status, headers, _ = ask(server, body=b"x" * 100, Idempotency_Key="cut")
    assert (status, headers["Idempotent-Replayed"]) == (201, None)


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(served: tuple[str, Server]) -> None:
    kind, server = served
    if kind in ("flask run", "wsgiref"):
        pytest.skip(f"{kind} speaks HTTP/1.0, which has no 100 Continue")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(
            b"POST /orders HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: expect\r\nContent-Length: 4\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert b"100" in connection.recv(1000)
        connection.sendall(b"book")
        assert b"book" in read_all(connection)


def test_two_requests_on_one_connection(served: tuple[str, Server]) -> None:
    _, server = served
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    heard = []
    for _ in range(2):
        connection.request("POST", "/orders", b"book", {"Idempotency-Key": "keep-alive"})
        response = connection.getresponse()
        heard.append((response.status, response.read()))
    connection.close()
    assert heard[0] == heard[1]
    assert heard[0][0] == 201


def test_an_event_stream_is_replayed_whole(served: tuple[str, Server]) -> None:
    _, server = served
    for _ in range(2):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("POST", "/events", b"", {"Idempotency-Key": "events"})
        assert connection.getresponse().read() == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        connection.close()


def raw(server: Server, request: bytes, *, half_close: bool = False) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(request)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    heard = b""
    try:
        while more := connection.recv(65536):
            heard += more
    except ConnectionResetError:
        pass
    return heard


SIZE = 300 * 1024 * 1024
CHUNK = bytes(range(256)) * 256


def big_body(before: bytes = b"", after: bytes = b"") -> Iterator[bytes]:
    yield before
    for _ in range(SIZE // len(CHUNK)):
        yield CHUNK
    yield after


@pytest.mark.parametrize("kind", ["raw", "multipart"])
@pytest.mark.parametrize("name", ["app", "wrapped"])
def test_an_upload_of_300_mb_grows_the_process_by_less_than_40_and_arrives_intact(
    tmp_path: Path, name: str, kind: str
) -> None:
    before, after, content_type = b"", b"", "application/octet-stream"
    if kind == "multipart":
        content_type = "multipart/form-data; boundary=b"
        before = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        after = b"\r\n--b--\r\n"
    length = str(len(before) + SIZE + len(after))
    expected = hashlib.sha256()
    for chunk in big_body():
        expected.update(chunk)
    store = {"STORE": str(tmp_path / "idempotency.db")}
    with serve("gunicorn gthread", f"tests.servers.app:{name}", env=store) as server:
        ask(server, Idempotency_Key="warm")
        peak = ask(server, "GET", "/peak", None)[2]["peak"]
        headers = {"Content_Length": length, "Content_Type": content_type, "Idempotency_Key": "upload"}
        for _ in range(2):
            status, _, heard = ask(server, path="/digest", body=big_body(before, after), **headers)
            assert (status, heard["sha256"]) == (200, expected.hexdigest())
        grown = ask(server, "GET", "/peak", None)[2]["peak"] - peak
    assert grown < 40 * 1024, f"grew by {grown} KiB"

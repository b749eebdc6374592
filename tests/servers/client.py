"""What a client of a real server does, well or badly."""

import http.client
import json
import re
import socket
from dataclasses import dataclass
from typing import Any

from tests.servers.launch import Server

TIMEOUT = 30


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client heard."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def replayed(self) -> bool:
        return self.headers["Idempotent-Replayed"] == "true"

    @property
    def problem(self) -> str:
        """The slug of the problem that was answered."""
        assert self.headers["Content-Type"] == "application/problem+json", (self.status, self.body)
        return re.split("[:#]", self.json["type"])[-1]


def ask(
    server: Server,
    method: str = "POST",
    path: str = "/orders",
    body: Any = b"book",
    key: str | None = None,
    **headers: Any,
) -> Answer:
    """Send one request on a connection of its own; `headers` by their names with underscores."""
    named = {"Host": "localhost"} | {name.replace("_", "-"): str(value) for name, value in headers.items()}
    if key is not None:
        named["Idempotency-Key"] = key
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
    try:
        connection.request(method, path, body, named)
        return hear(connection)
    finally:
        connection.close()


def hear(connection: http.client.HTTPConnection) -> Answer:
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read())


def seen(server: Server) -> list[str]:
    """The bodies of all orders that ran."""
    orders: list[str] = ask(server, "GET", body=None).json["seen"]
    return orders


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT)


def head(*lines: str, path: str = "/orders") -> bytes:
    """The head of a POST, as bytes on the wire."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes, by FIN or by RST. Raises `TimeoutError` where it does not."""
    heard = b""
    try:
        while more := connection.recv(65536):
            heard += more
    except ConnectionError:
        pass
    return heard


def read_until(connection: socket.socket, awaited: bytes) -> bytes:
    """Read as far as it takes to hear `awaited`."""
    heard = b""
    while awaited not in heard:
        more = connection.recv(65536)
        assert more, f"the server closed after {heard!r}"
        heard += more
    return heard

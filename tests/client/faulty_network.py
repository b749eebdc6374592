"""A network that fails on demand: a TCP proxy for HTTP/1 that loses, holds, cuts and resets."""

import re
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from enum import Enum
from functools import partial
from typing import Self

#: Seconds after which a thing that should have happened counts as broken, not as slow.
PATIENCE = 20.0


class Fault(Enum):
    """What becomes of one attempt."""

    NONE = "passes"
    LOSE_REQUEST = "the server never sees it"
    LOSE_ANSWER = "done, but the client hears nothing: the connection closes"
    RESET = "done, but the client hears nothing: the connection is reset"
    CUT_ANSWER = "done, but the answer ends in the middle of its body"
    HOLD_ANSWER = "done, but no answer comes until the client hangs up"
    HOLD_REQUEST = "reaches the server only after the client hung up"


class FaultyNetwork:
    """Forwards each attempt to the server, with the next of `faults`; without any once these are used up."""

    def __init__(self, server: tuple[str, int], faults: Iterable[Fault] | Callable[[], Fault] = ()) -> None:
        self._server = server
        self._next_fault = faults if callable(faults) else partial(next, iter(faults), Fault.NONE)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._closing = False
        self.attempts: list[Fault] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def settle(self) -> None:
        """Wait until every request that is still held has reached the server."""
        for thread in list(self._threads):
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def close(self) -> None:
        self._closing = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(PATIENCE)
        self.settle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads = [running for running in self._threads if running.is_alive()] + [thread]
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(PATIENCE)
        with closing(client), suppress(ConnectionError):
            request = _read_request(client)
            if not request:
                return  # a connection that was opened and never used
            with self._lock:
                fault = self._next_fault()
                self.attempts.append(fault)
            if fault is Fault.LOSE_REQUEST:
                return
            if fault is Fault.HOLD_REQUEST:
                _await_hang_up(client)
            answer = self._forward(request)
            match fault:
                case Fault.NONE:
                    client.sendall(answer)
                case Fault.CUT_ANSWER:
                    head, _, body = answer.partition(b"\r\n\r\n")
                    assert len(body) > 1, "there is nothing to cut"
                    client.sendall(head + b"\r\n\r\n" + body[: len(body) // 2])
                case Fault.HOLD_ANSWER:
                    _await_hang_up(client)
                case Fault.RESET:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                case _:
                    pass

    def _forward(self, request: bytes) -> bytes:
        # One request a connection: the answer ends where the server closes.
        head, _, body = request.partition(b"\r\n\r\n")
        head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head) + b"\r\nConnection: close"
        with closing(socket.create_connection(self._server, PATIENCE)) as server:
            server.sendall(head + b"\r\n\r\n" + body)
            return b"".join(iter(lambda: server.recv(65536), b""))


def _read_request(client: socket.socket) -> bytes:
    """One request to its end; empty where the client closed before it began."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = client.recv(65536)
        if not part:
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    chunked = re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head)
    while (length and len(body) < int(length[1])) or (chunked and not body.endswith(b"0\r\n\r\n")):
        part = client.recv(65536)
        if not part:
            raise ConnectionError("the client closed in the middle of its request")
        body += part
    return head + b"\r\n\r\n" + body


def _await_hang_up(client: socket.socket) -> None:
    ready, _, _ = select.select([client], [], [], PATIENCE)
    assert ready, "the client never hung up"
    with suppress(OSError):
        client.recv(1)

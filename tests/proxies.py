"""A TCP proxy that knows no protocol and fails on demand: between a store and its database server, for example."""

import select
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Self

#: Seconds after which a thing that should have happened counts as broken, not as slow.
PATIENCE = 20.0

_CHUNK = 65536


class Trouble(Enum):
    """What becomes of one request."""

    LOSE_REQUEST = "the server never sees it: the connection is reset"
    LOSE_REPLY = "done by the server, but instead of its reply the client finds the connection reset"
    CUT_REPLY = "done by the server, but its reply ends after so many bytes: the connection is reset"
    STALL_REPLY = "done by the server, but no reply comes, and the connection stays open"
    DELAY_REQUEST = "reaches the server only after the client gave up and closed the connection"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Strikes the next request whose bytes contain `matching`: any request, where it is empty."""

    trouble: Trouble
    matching: bytes = b""
    #: How many bytes of the reply pass before `CUT_REPLY` cuts it.
    passes: int = 1


class Proxy:
    """Forwards bytes between its clients and the server at `server`, until told to fail.

    `fail_next` arms a fault for one request; `struck` lists the faults that struck, so that a test can prove its
    trouble took place. `stall`, `drop` and `refuse` are troubles of the whole network, until `restore`.

        with Proxy(("127.0.0.1", 6379)) as proxy:
            client = connect(proxy.host, proxy.port)
            proxy.fail_next(Trouble.LOSE_REPLY, matching=b"COMMIT")
    """

    host = "127.0.0.1"

    def __init__(self, server: tuple[str, int]) -> None:
        self.server = server
        self.struck: list[Fault] = []
        self.connections = 0
        self._armed: list[Fault] = []
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = False
        self._closing = False
        self._links: list[_Link] = []
        self._listener = socket.create_server((self.host, 0), backlog=128)
        self._accepting = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._accepting.start()

    @property
    def port(self) -> int:
        """The port to connect to instead of the server's."""
        return int(self._listener.getsockname()[1])

    def fail_next(self, trouble: Trouble, *, matching: bytes = b"", passes: int = 1, times: int = 1) -> None:
        """Let the next `times` requests that contain `matching` meet `trouble`."""
        with self._lock:
            self._armed += [Fault(trouble=trouble, matching=matching, passes=passes)] * times

    def stall(self) -> None:
        """Hold every byte in both directions; new connections are accepted and then hang as well."""
        self._flowing.clear()

    def drop(self) -> None:
        """Reset every connection there is; new ones work."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.reset()

    def refuse(self) -> None:
        """Reset every connection there is, and each new one as soon as it is made."""
        self._refusing = True
        self.drop()

    def restore(self) -> None:
        """End every trouble. What was held flows on; faults that have not struck are disarmed."""
        with self._lock:
            self._armed.clear()
        self._refusing = False
        self._flowing.set()

    def settle(self) -> None:
        """Wait until every delayed request has reached the server and was answered there."""
        with self._lock:
            links = list(self._links)
        for link in links:
            if link.delaying:
                link.join()

    def close(self) -> None:
        """End every connection and stop listening."""
        self._closing = True
        self.restore()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(PATIENCE)
        self.drop()
        for link in list(self._links):
            link.join()

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
            self.connections += 1
            if self._refusing:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self.server, PATIENCE)
            except OSError:
                _reset(client)  # as the server itself refuses
                continue
            link = _Link(self, client, server)
            with self._lock:
                self._links = [other for other in self._links if other.alive] + [link]
            link.start()

    def await_flow(self) -> None:
        """Return once bytes may flow."""
        self._flowing.wait(PATIENCE)

    def fault_for(self, request: bytes) -> Fault | None:
        """The armed fault that strikes this request; it strikes once."""
        with self._lock:
            for fault in self._armed:
                if fault.matching in request:
                    self._armed.remove(fault)
                    self.struck.append(fault)
                    return fault
        return None


class _Link:
    """One client's connection and its twin to the server, a thread for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        for end in (client, server):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._fault: Fault | None = None
        self.delaying = False
        self._threads = [
            threading.Thread(target=self._guarded, args=(act,), name="proxy-link", daemon=True)
            for act in (self._forward_requests, self._forward_replies)
        ]

    @property
    def alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a connection of the proxy did not end"

    def reset(self) -> None:
        _reset(self._client)
        _reset(self._server)

    def _guarded(self, act: object) -> None:
        assert callable(act)
        # An end that is closed under our hands is what this is for.
        with suppress(OSError, ValueError):
            act()

    def _forward_requests(self) -> None:
        while data := self._client.recv(_CHUNK):
            self._proxy.await_flow()
            fault = self._proxy.fault_for(data)
            if fault is not None:
                if fault.trouble is Trouble.LOSE_REQUEST:
                    return self.reset()
                if fault.trouble is Trouble.DELAY_REQUEST:
                    self.delaying = True
                    data += self._until_the_client_hangs_up()
                self._fault = fault
            self._server.sendall(data)
        if not self.delaying:  # its reply is awaited: the server must not see us leave before it read the request
            self._hang_up(self._server)
        return None

    def _forward_replies(self) -> None:
        while data := self._server.recv(_CHUNK):
            self._proxy.await_flow()
            match self._fault and self._fault.trouble:
                case Trouble.LOSE_REPLY:
                    return self.reset()
                case Trouble.CUT_REPLY:
                    assert self._fault is not None
                    self._client.sendall(data[: self._fault.passes])
                    _await_delivery(self._client)
                    return self.reset()
                case Trouble.STALL_REPLY:
                    continue
                case Trouble.DELAY_REQUEST:
                    return self.reset()
            self._client.sendall(data)
        self._hang_up(self._client)
        return None

    def _until_the_client_hangs_up(self) -> bytes:
        parts: list[bytes] = []
        while True:
            ready, _, _ = select.select([self._client], [], [], PATIENCE)
            assert ready, "the client never gave up"
            try:
                part = self._client.recv(_CHUNK)
            except ConnectionError:
                part = b""
            if not part:
                return b"".join(parts)
            parts.append(part)

    @staticmethod
    def _hang_up(end: socket.socket) -> None:
        with suppress(OSError):
            end.shutdown(socket.SHUT_WR)


def _reset(end: socket.socket) -> None:
    """Close with a reset, and wake whoever reads from it."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # A close alone leaves a thread blocked in recv; a shutdown wakes it, yet would send FIN before the reset.
    # Reading ends first, so that the other side sees nothing but the reset.
    with suppress(OSError):
        end.shutdown(socket.SHUT_RD)
    end.close()


def _await_delivery(end: socket.socket) -> None:
    """Wait until what was sent has been acknowledged: a reset would overtake it."""
    with suppress(OSError):
        for _ in range(200):
            # struct tcp_info, field tcpi_unacked: 24 bytes in (Linux).
            info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
            if struct.unpack_from("I", info, 24)[0] == 0:
                return
            threading.Event().wait(0.005)

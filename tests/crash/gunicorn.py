"""Real gunicorn servers around the till, and the clients and signals that the crash tests need."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gunicorn.config import make_settings

ROOT = Path(__file__).parents[2]
TIMEOUT = 30.0


@dataclass
class Answer:
    """What a client heard; status 0: the connection broke."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    json: dict[str, Any] = field(default_factory=dict)

    @property
    def problem(self) -> str:
        """The last part of the problem's type."""
        return re.split("[:#]", str(self.json["type"]))[-1]

    @property
    def replayed(self) -> bool:
        return self.headers.get("Idempotent-Replayed") == "true"


class Pending:
    """A request whose answer is waited for in another thread."""

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self._answer: Answer | None = None

        def run() -> None:
            self._answer = ask()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def answer(self) -> Answer:
        self._thread.join(TIMEOUT)
        assert self._answer is not None, "no answer came"
        return self._answer

    def done(self) -> bool:
        return not self._thread.is_alive()


class Till:
    """One store and its ledger in `folder`, and the servers on them. The policy is of what `settings` say."""

    def __init__(
        self, folder: Path, *, used_by_master: bool = False, busy_timeout: float = 30.0, **settings: object
    ) -> None:
        self.folder = folder
        self.ledger = folder / "ledger"
        self.environ = {
            **os.environ,
            "TILL_STORE": str(folder / "idempotency.db"),
            "TILL_LEDGER": str(self.ledger),
            "TILL_POLICY": json.dumps(settings),
            "TILL_BUSY_TIMEOUT": str(busy_timeout),
            **({"TILL_USED_BY_MASTER": "yes"} if used_by_master else {}),
        }
        self.servers: list[Server] = []

    def serve(
        self,
        *,
        kind: str = "sync",
        workers: int = 1,
        threads: int = 1,
        preload: bool = False,
        timeout: int = 120,
    ) -> "Server":
        """`timeout`: seconds after which the server gives up a worker that is busy with one request."""
        self.servers.append(Server(self, kind, workers, threads, preload, timeout))
        return self.servers[-1]

    def close(self) -> None:
        for server in self.servers:
            server.kill()

    def gate(self, name: str) -> dict[str, str]:
        """The payload of a request that stops at this gate."""
        return {"gate": str(self.folder / name)}

    def entered(self, name: str, attempt: int = 1) -> None:
        """Wait until a handler stands at the gate."""
        until((self.folder / f"{name}.entered.{attempt}").exists)

    def open(self, name: str, then: str = "answer", *, attempt: int | None = None) -> None:
        """Let the handlers go on, or one; what they do then is told in `till.py`."""
        told = self.folder / f"{name}.told"
        told.write_text(then)
        told.rename(self.folder / (f"{name}.open" if attempt is None else f"{name}.open.{attempt}"))

    def runs(self) -> Counter[str]:
        """How often the handler ran for each key."""
        return Counter(line.split()[0] for line in self.ledger.read_text().splitlines())

    def runner(self, key: str) -> int:
        """The process that ran the handler last for this key."""
        return [int(line.split()[1]) for line in self.ledger.read_text().splitlines() if line.split()[0] == key][-1]


class Server:
    """A gunicorn, listening already when it starts."""

    def __init__(self, till: Till, kind: str, workers: int, threads: int, preload: bool, timeout: int) -> None:
        self._log = till.folder / f"gunicorn-{len(till.servers)}.log"
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
            self.port = listening.getsockname()[1]
            command = [
                *(sys.executable, "-m", "gunicorn", "--worker-class", kind, "--bind", f"fd://{listening.fileno()}"),
                *("--workers", str(workers), "--timeout", str(timeout), "--log-file", str(self._log)),
                *(("--no-control-socket",) if "control_socket_disable" in make_settings() else ()),
                *(("--threads", str(threads)) if kind == "gthread" else ()),
                *(("--preload",) if preload else ()),
                "tests.crash.till:app",
            ]
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=till.environ, pass_fds=[listening.fileno()], start_new_session=True
            )

    def kill(self) -> None:
        """SIGKILL the master and every worker."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(TIMEOUT)

    def get(self, *, timeout: float = TIMEOUT) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status
        finally:
            connection.close()

    def pay(self, key: str, payload: object = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            headers = {"Host": "till", "Idempotency-Key": key, "Content-Type": "application/json"}
            connection.request("POST", "/pay", json.dumps({} if payload is None else payload), headers)
            response = connection.getresponse()
            headers, body = dict(response.getheaders()), response.read()
            return Answer(response.status, headers, json.loads(body) if "json" in headers["Content-Type"] else {})
        except (ConnectionError, http.client.HTTPException):
            return Answer(0)
        finally:
            connection.close()

    def start_paying(self, key: str, payload: object = None) -> Pending:
        return Pending(lambda: self.pay(key, payload))

    def start_paying_until_done(self, key: str, payload: object = None) -> Pending:
        return Pending(lambda: self.pay_until_done(key, payload))

    def pay_until_done(self, key: str, payload: object = None) -> Answer:
        """Ask again as long as the answer is that of a request in progress."""
        answers: list[Answer] = []

        def settled() -> bool:
            answers.append(self.pay(key, payload))
            return answers[-1].status not in (0, 409)

        until(settled)
        return answers[-1]


def until(true: Callable[[], bool]) -> None:
    """Wait for it; it must come to be."""
    ends = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.01)

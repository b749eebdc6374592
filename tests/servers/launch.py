"""Starts a real WSGI server in a process of its own, and stops it for sure."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from gunicorn.config import make_settings

ROOT = Path(__file__).parents[2]

#: Seconds in which a server must answer for the first time.
_START_WITHIN = 30.0

_GUNICORN = (
    *("{python}", "-m", "gunicorn", "--bind", "fd://{fileno}", "--workers", "{workers}"),
    *(("--no-control-socket",) if "control_socket_disable" in make_settings() else ()),
)
_RUNNER = ("{python}", "-m", "tests.servers.runner")
_UWSGI = shutil.which("uwsgi", path=os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"])))

#: What runs each kind of server around an application "module:name". Each is handed a socket that listens already, so
#: that no other process can take the port, and no client comes too early.
COMMANDS = {
    "flask run": ("{python}", "-m", "flask", "--app", "{app}", "run", "--port", "{port}"),
    "wsgiref": (*_RUNNER, "wsgiref", "{fileno}", "{app}", "{threads}"),
    "waitress": (*_RUNNER, "waitress", "{fileno}", "{app}", "{threads}"),
    "gunicorn sync": (*_GUNICORN, "{app}"),
    "gunicorn gthread": (*_GUNICORN, "--worker-class", "gthread", "--threads", "{threads}", "{app}"),
    "gunicorn gevent": (*_GUNICORN, "--worker-class", "gevent", "{app}"),
}
#: Servers in which no thread of Python's runs but the one that serves.
WITHOUT_THREADS: dict[str, tuple[str, ...]] = {}
if _UWSGI is not None:  # pip builds it only where there is a compiler
    _PLAIN_UWSGI = (
        *(_UWSGI, "--http-socket", "fd://{fileno}", "--venv", sys.prefix, "--wsgi", "{app}", "--need-app"),
        *("--master", "--processes", "{workers}", "--single-interpreter"),
        *("--add-header", "Connection: close"),  # it closes, and would not say so
    )
    COMMANDS["uWSGI"] = (*_PLAIN_UWSGI, "--enable-threads", "--threads", "{threads}")
    WITHOUT_THREADS["uWSGI"] = _PLAIN_UWSGI


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs; signals reach it and all its workers."""

    port: int
    process: "subprocess.Popen[bytes]"
    log: IO[bytes]

    @property
    def pid(self) -> int:
        """The process that was started: the master of gunicorn and uWSGI, the whole server elsewhere."""
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """End every process of it at once, as a power cut would."""
        self._signal(signal.SIGKILL)
        self.process.wait(_START_WITHIN)

    def stop_signal(self) -> None:
        """Let every process of it stand still."""
        self._signal(signal.SIGSTOP)

    def cont_signal(self) -> None:
        """Let every process of it go on."""
        self._signal(signal.SIGCONT)

    def said(self) -> str:
        """What it has written to its log."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def _signal(self, number: signal.Signals) -> None:
        # Even where the process has ended, workers of it may be left.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


@contextmanager
def serve(
    kind: str,
    app: str,
    *,
    env: dict[str, str] | None = None,
    workers: int = 1,
    threads: int = 1,
    command: tuple[str, ...] | None = None,
) -> Iterator[Server]:
    """Serve `app` ("module:name", importable from the root of the repository) until the block ends.

    `kind` is one of `COMMANDS`, unless `command` says otherwise. Raises `AssertionError`, with what the server said,
    where it does not come up.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening, TemporaryFile() as log:
        fileno, port = listening.fileno(), listening.getsockname()[1]
        values = {
            "python": sys.executable,
            "app": app,
            "fileno": fileno,
            "port": port,
            "workers": workers,
            "threads": threads,
        }
        own = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        if kind == "flask run":
            # How Werkzeug hands the socket on when it reloads: there is no option for it.
            own |= {"WERKZEUG_RUN_MAIN": "true", "WERKZEUG_SERVER_FD": str(fileno)}
        process = subprocess.Popen(
            [part.format(**values) for part in command or COMMANDS[kind]],
            cwd=ROOT,
            env=os.environ | own | (env or {}),
            stdout=log,
            stderr=log,
            pass_fds=[fileno],
            start_new_session=True,
        )
        server = Server(port, process, log)
        try:
            # Ours would keep the port open after the server's end.
            listening.close()
            _wait_for_an_answer(server)
            yield server
        finally:
            server.kill()


def _wait_for_an_answer(server: Server) -> None:
    ends = time.monotonic() + _START_WITHIN
    while time.monotonic() < ends and server.process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=1) as probe:
            probe.sendall(b"GET /is-it-up HTTP/1.0\r\n\r\n")
            heard = probe.recv(100).split(b"\r\n")[0]
            if b" 500 " in heard:  # `flask run` comes up without the application
                break
            if heard:
                return
    raise AssertionError(f"the server did not come up (it ended with {server.process.poll()}):\n{server.said()}")

"""Starts a real WSGI server in a process of its own, and stops it for sure."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_WSGIREF = """
import importlib, socketserver, sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
class Threading(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments): pass
module, _, name = sys.argv[2].partition(":")
app = getattr(importlib.import_module(module), name)
make_server("127.0.0.1", int(sys.argv[1]), app, server_class=Threading, handler_class=Quiet).serve_forever()
"""

#: The command of each kind of server, for an application "module:name" on a port.
COMMANDS = {
    "flask run": ["-m", "flask", "--app", "{app}", "run", "--port", "{port}"],
    "wsgiref": ["-c", _WSGIREF, "{port}", "{app}"],
    "waitress": ["-m", "waitress", "--listen=127.0.0.1:{port}", "--threads={threads}", "{app}"],
    "gunicorn sync": ["-m", "gunicorn", "-b", "127.0.0.1:{port}", "-w", "{workers}", "{app}"],
    "gunicorn gthread": [
        *("-m", "gunicorn", "-b", "127.0.0.1:{port}", "-w", "{workers}"),
        *("-k", "gthread", "--threads", "{threads}", "{app}"),
    ],
    "gunicorn gevent": ["-m", "gunicorn", "-b", "127.0.0.1:{port}", "-w", "{workers}", "-k", "gevent", "{app}"],
}


@dataclass
class Server:
    """A server that runs."""

    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serve(
    kind: str, app: str, *, env: dict[str, str] | None = None, workers: int = 1, threads: int = 4
) -> Iterator[Server]:
    """Serve `app` ("module:name", importable from the root of the repository) until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {"port": str(port), "app": app, "workers": str(workers), "threads": str(threads)}
    command = [part if part is _WSGIREF else part.format(**values) for part in COMMANDS[kind]]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(port, process)
        yield Server(port, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode} before it served")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the server did not come up")

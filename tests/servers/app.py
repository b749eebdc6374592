"""What the real servers serve: one application with hooks, and one within the middleware."""

import hashlib
import itertools
import os
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from flask import Flask, Response, request, send_file

from flask_idempotency import Idempotency, IdempotencyMiddleware
from flask_idempotency.stores import SQLiteStore

#: Larger than what is kept of a response.
LARGE = 3 * 1024 * 1024


def make() -> Flask:
    app = Flask(__name__)
    runs = itertools.count(1)
    seen: list[str] = []

    @app.post("/orders")
    def order() -> Any:
        seen.append(request.get_data(as_text=True))
        return {"run": next(runs), "body": seen[-1]}, 201

    @app.get("/orders")
    def orders() -> Any:
        """The bodies of all orders that ran."""
        return {"seen": seen}

    @app.post("/nothing")
    def nothing() -> Any:
        seen.append("nothing")
        return "", 204

    @app.post("/error")
    def error() -> Any:
        seen.append("error")
        raise ValueError("this request fails")

    @app.post("/file/<int:size>")
    def file(size: int) -> Any:
        """By the server's own file wrapper, where it has one."""
        path = Path(os.environ["FOLDER"], f"{size}.bin")
        if not path.exists():
            path.write_bytes(os.urandom(size))
        return send_file(path)

    @app.post("/memory/<int:size>")
    def memory(size: int) -> Any:
        return send_file(BytesIO(bytes(size)), mimetype="application/octet-stream")

    @app.post("/digest")
    def digest() -> Any:
        """What arrived, read as a stream."""
        arrived = hashlib.sha256()
        form = request.mimetype == "multipart/form-data"
        source = request.files["file"].stream if form else request.stream
        while chunk := source.read(64 * 1024):
            arrived.update(chunk)
        return {"sha256": arrived.hexdigest()}

    @app.get("/memory")
    def memory_of_this_process() -> Any:
        """In KiB: what it holds now, and the most that it ever held.

        Not `getrusage`: there a process begins with the peak of the one that started it.
        """
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {name: int(status[name].split()[0]) for name in ("VmRSS", "VmHWM")}

    @app.post("/events")
    def events() -> Any:
        """The second event comes once the file named by `gate` is there; the client makes it when it has the first."""
        gate = Path(os.environ["FOLDER"], request.args["gate"])

        def stream() -> Iterator[str]:
            yield "data: 1\n\n"
            ends = time.monotonic() + 20
            while not gate.exists() and time.monotonic() < ends:
                time.sleep(0.01)
            yield "data: 2\n\n" if gate.exists() else "data: held back\n\n"

        return Response(stream(), mimetype="text/event-stream")

    return app


folder = os.environ.get("FOLDER", "/nonexistent")
hooks = make()
Idempotency(hooks, store=SQLiteStore(f"{folder}/hooks.db"))
middleware = make()
middleware.wsgi_app = IdempotencyMiddleware(  # type: ignore[method-assign]
    middleware.wsgi_app, store=SQLiteStore(f"{folder}/middleware.db")
)

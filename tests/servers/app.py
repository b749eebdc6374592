"""The application that the real servers serve, with hooks and, as `wrapped`, with the middleware."""

import hashlib
import itertools
import os
import resource
from typing import Any

from flask import Flask, Response, request

from flask_idempotency import Idempotency, IdempotencyMiddleware
from flask_idempotency.stores import SQLiteStore

runs = itertools.count(1)


def make() -> Flask:
    app = Flask(__name__)

    @app.post("/orders")
    def order() -> Any:
        return {"run": next(runs), "body": request.get_data(as_text=True)}, 201

    @app.get("/orders")
    def orders() -> Any:
        return {"method": "GET"}

    @app.post("/digest")
    def digest() -> Any:
        """What arrived, read as a stream, and the most memory that this process ever held, in KiB."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seen = hashlib.sha256()
        file = request.files["file"].stream if request.mimetype == "multipart/form-data" else request.stream
        while chunk := file.read(64 * 1024):
            seen.update(chunk)
        return {
            "sha256": seen.hexdigest(),
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            "before": before,
        }

    @app.get("/peak")
    def peak() -> Any:
        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}

    @app.post("/events")
    def events() -> Any:
        return Response((f"data: {number}\n\n" for number in range(3)), mimetype="text/event-stream")

    return app


store_path = os.environ.get("STORE", "/nonexistent/idempotency.db")
app = make()
Idempotency(app, store=SQLiteStore(store_path))
wrapped = IdempotencyMiddleware(make(), store=SQLiteStore(store_path))

"""What one of several server processes runs: an application whose work counts itself where all of them see it."""

import os

from flask import Flask, request

from flask_idempotency import Idempotency
from flask_idempotency.stores import open_store

app = Flask(__name__)
Idempotency(app, store=open_store(os.environ.get("RACE_STORE", "memory://")))


@app.post("/orders")
def order() -> tuple[dict[str, int], int]:
    with open(os.environ["RACE_RUNS"], "a") as runs:
        runs.write(request.headers["Idempotency-Key"] + "\n")  # one short write, which the system appends whole
    return {"in": os.getpid()}, 201

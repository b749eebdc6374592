"""What one of several server processes runs: an application whose work counts itself where all of them see it."""

import os

import redis
from flask import Flask, request

from flask_idempotency import Idempotency
from flask_idempotency.stores.redis import RedisStore

app = Flask(__name__)
Idempotency(app, store=RedisStore.from_url(os.environ["RACE_STORE"]))
runs = redis.Redis.from_url(os.environ["RACE_COUNTER"])


@app.post("/orders")
def order() -> tuple[dict[str, int], int]:
    number = runs.incr("ran:" + request.headers["Idempotency-Key"])
    return {"ran": int(number), "in": os.getpid()}, 201

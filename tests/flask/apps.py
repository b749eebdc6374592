"""Small applications under hooks, and a client that sends a key."""

from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from flask_idempotency import Idempotency, Policy
from flask_idempotency.stores import MemoryStore


def make_app(**policy: Any) -> tuple[Flask, Idempotency]:
    app = Flask(__name__)
    app.config.update(SECRET_KEY="s" * 32, PROPAGATE_EXCEPTIONS=False)
    return app, Idempotency(app, store=MemoryStore(), policy=Policy(**policy))


def post(app: Flask, path: str = "/x", key: str | None = "k", method: str = "POST", **request: Any) -> TestResponse:
    """Ask, under a key unless it is None."""
    headers = dict(request.pop("headers", {}))
    if key is not None:
        headers["Idempotency-Key"] = key
    return app.test_client().open(path, method=method, headers=headers, **request)


def slug(response: TestResponse) -> str:
    """The name of the problem that was answered."""
    assert response.content_type == "application/problem+json", response.text
    assert response.json
    return str(response.json["type"].rpartition("#")[2])

"""The application that every subject stands around, and the requests that it is asked."""

import json
import uuid
from collections.abc import Callable, Iterable
from enum import StrEnum
from io import BytesIO
from time import perf_counter
from typing import Any

from flask import Flask, jsonify, request
from werkzeug.test import EnvironBuilder

WSGIApp = Callable[[dict[str, Any], Any], Iterable[bytes]]

ORDER = {"item": "The Mythical Man-Month", "quantity": 2, "ship_to": {"name": "A. Reader", "city": "Ghent"}}


class Kind(StrEnum):
    """What kind of request is timed."""

    FIRST = "first"
    REPLAY = "replay"
    NO_KEY = "no key"
    GET = "GET"


class Orders:
    """A small shop: JSON in and out. It counts how often it really ran, so that a replay cannot be faked."""

    def __init__(self) -> None:
        self.runs = 0
        self.flask = Flask("orders")

    def create(self) -> Any:
        """The view of `POST /orders`."""
        return jsonify(self.place(request.get_json())), 201

    def place(self, order: Any) -> dict[str, Any]:
        """What the view does."""
        self.runs += 1
        return {"id": self.runs, "item": order["item"], "quantity": order["quantity"], "status": "placed"}

    def read(self) -> Any:
        """The view of `GET /orders/1`."""
        self.runs += 1
        return jsonify(id=1, item=ORDER["item"], status="placed")

    def route(self, create: Callable[[], Any] | None = None) -> "Orders":
        """Install the views; `create` in place of the plain one."""
        self.flask.add_url_rule("/orders", "create", create or self.create, methods=["POST"])
        self.flask.add_url_rule("/orders/1", "read", self.read, methods=["GET"])
        return self


def new_keys(count: int) -> list[str]:
    """Fresh idempotency keys."""
    return [str(uuid.uuid4()) for _ in range(count)]


class Requests:
    """Makes environs from one template each, as a server would hand them over."""

    def __init__(self) -> None:
        self._body = json.dumps(ORDER).encode()
        headers = {"Authorization": "Bearer " + "t" * 40, "User-Agent": "bench", "Accept": "*/*"}
        post = EnvironBuilder("/orders", method="POST", data=self._body, content_type="application/json")
        get = EnvironBuilder("/orders/1", method="GET")
        self._post, self._get = post.get_environ(), get.get_environ()
        for template in (self._post, self._get):
            template.update({"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()})
            del template["wsgi.input"]

    def of(self, kind: Kind, keys: list[str]) -> list[dict[str, Any]]:
        """As many requests as there are keys."""
        if kind is Kind.GET:
            return [{**self._get, "wsgi.input": BytesIO()} for _ in keys]
        plain = [{**self._post, "wsgi.input": BytesIO(self._body)} for _ in keys]
        if kind is not Kind.NO_KEY:
            for environ, key in zip(plain, keys, strict=True):
                environ["HTTP_IDEMPOTENCY_KEY"] = key
        return plain


def serve(app: WSGIApp, environs: list[dict[str, Any]]) -> tuple[float, list[str]]:
    """Serve these requests as a server would, one after the other: the seconds it took, and the status lines.

    Each environ is let go when its request is done, so that memory is used again and not asked of the system.
    """
    heads: list[str] = []
    environs.reverse()

    def start_response(status: str, headers: object, exc_info: object = None) -> Callable[[bytes], object]:
        heads.append(status)
        return lambda data: None

    began = perf_counter()
    while environs:
        chunks = app(environs.pop(), start_response)
        for _ in chunks:
            pass
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
    return perf_counter() - began, heads

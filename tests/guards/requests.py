"""The kinds of request whose cost is guarded, asked of a small application, and what each adds to a count."""

import uuid
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from flask import Flask

from flask_idempotency import Idempotency, IdempotencyMiddleware, Policy
from flask_idempotency.engine.store import Store

#: Reads what has been counted so far.
Read = Callable[[], Counter[str]]


class Kind(StrEnum):
    """What is asked, in what state of its key."""

    FIRST = "first"
    REPLAY = "replay"
    REUSED = "another payload"
    IN_FLIGHT = "in flight"
    FAILED = "failed"
    STREAMED = "an answer that streams"
    MISSING = "no key where one is required"
    MALFORMED = "malformed key"
    NO_KEY = "no key on an optional view"
    GET = "GET"


#: What each kind is answered with.
ANSWERS = {
    Kind.FIRST: 201,
    Kind.REPLAY: 201,
    Kind.REUSED: 422,
    Kind.IN_FLIGHT: 409,
    Kind.FAILED: 500,
    Kind.STREAMED: 200,
    Kind.MISSING: 400,
    Kind.MALFORMED: 400,
    Kind.NO_KEY: 201,
    Kind.GET: 200,
}

#: The kinds that must not touch the store at all.
UNTOUCHED = (Kind.MISSING, Kind.MALFORMED, Kind.NO_KEY, Kind.GET)


class Shop:
    """One application behind one front end, and a second one where keys are optional; both on the same store."""

    def __init__(self, store: Store, front_end: str = "hooks", **options: Any) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        self._required = self._app(store, front_end, Policy(**options))
        self._optional = self._app(store, front_end, Policy(required=False, **options))

    def cost(self, kind: Kind, read: Read) -> Counter[str]:
        """What one request of this kind adds to what is read."""
        key = str(uuid.uuid4())
        if kind is Kind.IN_FLIGHT:
            return self._cost_in_flight(key, read)
        if kind in (Kind.REPLAY, Kind.REUSED):
            assert self._post(key) == 201
        return self._counted(kind, key, read)

    def sixteen(self, read: Read) -> Counter[str]:
        """What sixteen fresh requests add, counted from the first of an application."""
        before = read()
        for _ in range(16):
            assert self._post(str(uuid.uuid4())) == 201
        return read() - before

    def _cost_in_flight(self, key: str, read: Read) -> Counter[str]:
        found: list[Counter[str]] = []
        # The handler itself asks again: the request is in flight, and nothing depends on time.
        self.meanwhile = lambda: found.append(self._counted(Kind.IN_FLIGHT, key, read))
        assert self._post(key) == 201
        (cost,) = found
        return cost

    def _counted(self, kind: Kind, key: str, read: Read) -> Counter[str]:
        before = read()
        status = self._ask(kind, key)
        after = read()
        assert status == ANSWERS[kind]
        return after - before

    def _ask(self, kind: Kind, key: str) -> int:
        match kind:
            case Kind.REUSED:
                return self._post(key, b"another")
            case Kind.FAILED:
                return self._post(key, path="/failing")
            case Kind.STREAMED:
                return self._post(key, path="/streamed")
            case Kind.MISSING:
                return self._post(None)
            case Kind.MALFORMED:
                return self._post('"no end')
            case Kind.NO_KEY:
                return self._optional.test_client().post("/orders", data=b"order").status_code
            case Kind.GET:
                return self._required.test_client().get("/orders", headers={"Idempotency-Key": key}).status_code
        return self._post(key)

    def _post(self, key: str | None, data: bytes = b"order", path: str = "/orders") -> int:
        headers = {} if key is None else {"Idempotency-Key": key}
        with self._required.test_client().post(path, data=data, headers=headers) as response:
            assert response.get_data()  # it is at its end, if it streams
            return response.status_code

    def _app(self, store: Store, front_end: str, policy: Policy) -> Flask:
        app = Flask(__name__)
        decorate: Callable[[Any], Any] = lambda view: view  # noqa: E731
        if front_end == "middleware":
            app.wsgi_app = IdempotencyMiddleware(app.wsgi_app, store=store, policy=policy)  # type: ignore[method-assign]
        else:
            idempotency = Idempotency(app, store=store, policy=policy)
            if front_end == "decorator":
                decorate = idempotency.view

        def place() -> tuple[str, int]:
            meanwhile, self.meanwhile = self.meanwhile, lambda: None
            meanwhile()
            return "placed", 201

        app.add_url_rule("/orders", "place", decorate(place), methods=["POST"])
        app.add_url_rule("/orders", "read", lambda: "read", methods=["GET"])
        app.add_url_rule("/failing", "failing", decorate(lambda: ("no", 500)), methods=["POST"])
        app.add_url_rule("/streamed", "streamed", decorate(lambda: iter(["an", "swer"])), methods=["POST"])
        return app

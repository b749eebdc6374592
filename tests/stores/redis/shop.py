"""A Flask application that counts how often its work ran, over a store that is handed in."""

from collections import Counter

from flask import Flask, request

from flask_idempotency import Idempotency, Policy
from flask_idempotency.engine.events import Event, Outcome
from flask_idempotency.engine.store import Store


class Shop:
    """`POST /orders` takes an order, `POST /refused` ends in a 500 that is not kept."""

    def __init__(self, store: Store, **options: object) -> None:
        self.runs: Counter[str] = Counter()
        self.events: list[Event] = []
        app = Flask(__name__)
        Idempotency(app, store=store, policy=Policy(**options), observers=[self.events.append])

        @app.post("/orders")
        def order() -> tuple[dict[str, int], int]:
            return {"order": self._run()}, 201

        @app.post("/refused")
        def refused() -> tuple[str, int]:
            self._run()
            return "no", 500

        self.app = app

    @property
    def heard(self) -> list[Outcome]:
        """What the engine told, in its order."""
        return [event.outcome for event in self.events]

    def post(self, key: str, path: str = "/orders") -> tuple[int, bool]:
        """Send it under `key`: the status that the client hears, and whether the answer was replayed."""
        response = self.app.test_client().post(path, json={"cents": 1}, headers={"Idempotency-Key": key})
        return response.status_code, response.headers.get("Idempotent-Replayed") == "true"

    def _run(self) -> int:
        key = request.headers["Idempotency-Key"]
        self.runs[key] += 1
        return self.runs[key]

"""A Flask app that takes payments as Stripe's API does, under the real extension."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask, request

from flask_idempotency import Idempotency, Policy
from flask_idempotency.stores import SQLiteStore


class FlaskTill:
    """`POST /v1/payment_intents` with a JSON body or, as Stripe's own client sends it, a form.

    `charges` holds the amount of each payment that was made, in their order: the ledger, which forgives nothing.
    With `protected=False`, the same app without the extension. `before_charge` is called on the way of each payment.
    """

    #: A repeat that overtakes the first is held until that is done, rather than sent away for a lease.
    PATIENT = Policy(wait=5.0)

    def __init__(self, directory: Path, *, protected: bool = True, policy: Policy = PATIENT) -> None:
        self.charges: list[int] = []
        self.before_charge: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self.app = Flask("flask_till", instance_path=str(directory))
        if protected:
            Idempotency(self.app, store=SQLiteStore(str(directory / "idempotency.db")), policy=policy)
        self.app.add_url_rule("/v1/payment_intents", view_func=self.pay, methods=["POST"])

    def pay(self) -> tuple[dict[str, Any], int]:
        """Charge the amount."""
        asked = request.get_json(silent=True) or request.form
        amount = int(asked["amount"])
        self.before_charge()
        with self._lock:
            self.charges.append(amount)
            number = len(self.charges)
        return {"id": f"pi_{number}", "object": "payment_intent", "amount": amount, "currency": asked["currency"]}, 200

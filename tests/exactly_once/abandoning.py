"""A process that is killed in mid-handler, with the request kept: `python -m tests.exactly_once.abandoning …`."""

import os
import signal
import sys
from typing import Any

from flask import Flask, abort, request

from flask_idempotency.stores import SQLiteStore
from tests.exactly_once.shop import Shop

LEASE = 0.5


def make(database_url: str, store_path: str, *, fresh: bool = False, **policy: Any) -> Shop:
    """The shop. It lets users in by a header, and knows of a resumed request who sent it."""
    wanted: Any = lambda request: {"user": request.headers["X-User"]}  # noqa: E731

    def login_as(resumed: Any) -> Any:
        user = resumed.context["user"]
        return None if user is None else {"X-User": user}

    store = SQLiteStore(store_path)
    shop = Shop(database_url, store, fresh=fresh, login_as=login_as, lease=LEASE, keep_request=wanted, **policy)

    def view() -> Any:
        user = request.headers.get("X-User")
        if user is None:
            abort(401)
        if request.get_json().get("fail"):
            return "no", 500
        shop.db.session.add(shop.Order(item=f"{request.get_json()['item']} for {user}"))
        shop.db.session.commit()
        if "die" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"ordered": request.get_json()["item"]}, 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    return shop


HEADERS = {"Idempotency-Key": "order-1", "X-User": "ada", "Authorization": "Bearer secret", "Cookie": "session=secret"}


def order(app: Flask, **body: Any) -> Any:
    return app.test_client().post("/orders?via=caf\xe9", json={"item": "book"} | body, headers=HEADERS)


if __name__ == "__main__":
    order(make(*sys.argv[1:]).app)

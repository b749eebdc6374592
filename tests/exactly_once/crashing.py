"""A process that serves one request and is killed at a given instant: `python -m tests.exactly_once.crashing …`.

The last argument names the boundary at which the process kills itself; "none" lets it answer. Prints the answer.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from flask_idempotency.engine.engine import Engine
from flask_idempotency.exactly_once.joined import OuterTransaction
from flask_idempotency.exactly_once.proofs import Proofs
from flask_idempotency.stores import open_store
from tests.exactly_once.shop import Shop

LEASE = 0.5

#: In the order in which a request passes them.
BOUNDARIES = (
    "after the claim",
    "after the flush",
    "after the view's commit",
    "before the outer commit",
    "after the outer commit",
    "before the first byte",
)

#: Those after which the rows stand.
COMMITTED = BOUNDARIES[4:]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_before(owner: type, name: str) -> None:
    setattr(owner, name, lambda *args, **kwargs: die())


def die_after(owner: type, name: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    def then_die(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        die()

    setattr(owner, name, then_die)


def serve(database_url: str, store_url: str, boundary: str) -> dict[str, Any]:
    shop = Shop(database_url, open_store(store_url), fresh=False, lease=LEASE)

    def view() -> Any:
        if boundary == "after the claim":
            die()
        for item in ("book", "pen"):
            shop.db.session.add(shop.Order(item=item))
        shop.db.session.flush()
        if boundary == "after the flush":
            die()
        shop.db.session.commit()
        if boundary == "after the view's commit":
            die()
        return {"ordered": 2}, 201

    if boundary == "before the outer commit":
        die_after(Proofs, "add")
    elif boundary == "after the outer commit":
        die_after(OuterTransaction, "commit")
    elif boundary == "before the first byte":
        die_after(Engine, "complete")
    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    answer = shop.app.test_client().post("/orders", headers={"Idempotency-Key": "order-1"})
    return {"status": answer.status_code, "json": answer.json, "replayed": "Idempotent-Replayed" in answer.headers}


if __name__ == "__main__":
    print(json.dumps(serve(*sys.argv[1:])))

"""A process that serves one request and is killed at a given instant: `python -m tests.exactly_once.crashing …`.

The third argument names how the view ends, the last the boundary at which the process kills itself; "none" lets it
answer. Prints the answer.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from flask_idempotency.engine.engine import Engine
from flask_idempotency.exactly_once.joined import OuterTransaction
from flask_idempotency.exactly_once.proofs import Proofs
from flask_idempotency.stores import open_store
from tests.exactly_once.shop import Shop

LEASE = 0.5

#: In the order in which any request passes them.
BOUNDARIES = (
    "after the claim",
    "after the flush",
    "after the view's commit",
    "before the outer commit",
    "after the outer commit",
    "before the first byte",
)

#: Those after which the rows stand.
COMMITTED = (*BOUNDARIES[4:], "after the first byte")

#: How a view may end that leaves its rows: by an answer that is kept, by one that is not, by one that streams.
ENDINGS = ("kept", "not kept", "streamed")

# Until the view has ended, it does not matter how it will.
CROSSINGS = (
    *(("kept", boundary) for boundary in BOUNDARIES),
    *(("not kept", boundary) for boundary in BOUNDARIES[3:]),
    *(("streamed", boundary) for boundary in (*BOUNDARIES[3:], "after the first byte")),
)

#: What writes the end of the record, before the first byte is sent.
_LAST_WRITE = {"kept": "complete", "not kept": "release", "streamed": "answering"}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(owner: type, name: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    def then_die(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        die()

    setattr(owner, name, then_die)


def serve(database_url: str, store_url: str, ending: str, boundary: str) -> dict[str, Any]:
    shop = Shop(database_url, open_store(store_url), fresh=False, lease=LEASE)

    def reached(here: str) -> None:
        if here == boundary:
            die()

    def view() -> Any:
        attempt = shop.idempotency.attempt
        assert attempt is not None
        reached("after the claim")
        for item in ("book", "pen"):
            shop.db.session.add(shop.Order(item=item))
        shop.db.session.flush()
        reached("after the flush")
        shop.db.session.commit()
        reached("after the view's commit")
        seen = json.dumps({"ordered": 2, "lapsed": attempt.lapsed})
        if ending == "streamed":
            return shop.app.response_class(stream(seen), 201, mimetype="application/json")
        return shop.app.response_class(seen, 201 if ending == "kept" else 402, mimetype="application/json")

    def stream(text: str) -> Iterator[str]:
        yield text[:5]
        reached("after the first byte")
        yield text[5:]

    if boundary == "after the hold":
        die_after(Proofs, "hold")
    elif boundary == "before the outer commit":
        die_after(Proofs, "end")
    elif boundary == "after the outer commit":
        die_after(OuterTransaction, "commit")
    elif boundary == "before the first byte":
        die_after(Engine, _LAST_WRITE[ending])
    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    answer = shop.app.test_client().post("/orders", headers={"Idempotency-Key": "order-1"})
    return {"status": answer.status_code, "json": answer.json, "replayed": "Idempotent-Replayed" in answer.headers}


if __name__ == "__main__":
    print(json.dumps(serve(*sys.argv[1:])))

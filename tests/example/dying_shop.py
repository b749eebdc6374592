"""The example shop, in a process that kills itself: `SHOP_DIES` names the boundary, in the order of a request.

The provider that charges cards has a ledger, at `SHOP_LEDGER`: a charge is a line, whatever becomes of the process.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import example_app
from flask_idempotency.engine.engine import Engine
from flask_idempotency.exactly_once.joined import OuterTransaction
from flask_idempotency.exactly_once.proofs import Proofs
from flask_idempotency.stores import SQLiteStore

BOUNDARIES: dict[str, tuple[Any, str]] = {
    "before the commit": (Proofs, "end"),
    "after the commit": (OuterTransaction, "commit"),
    "before the first byte": (Engine, "complete"),
    "after the step": (SQLiteStore, "keep_step"),
    "after the view's commit": (example_app.db.session, "commit"),
}


def die_after(owner: Any, name: str) -> None:
    """Let the process die as soon as this was done."""
    original: Callable[..., Any] = getattr(owner, name)

    def then_die(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, then_die)


def charge_card(*args: Any, **kwargs: Any) -> str:
    charge_id = provider(*args, **kwargs)
    with Path(os.environ["SHOP_LEDGER"]).open("a") as ledger:
        ledger.write(f"{charge_id}\n")
    return charge_id


provider, example_app.charge_card = example_app.charge_card, charge_card
app = example_app.app
if "SHOP_DIES" in os.environ:
    die_after(*BOUNDARIES[os.environ["SHOP_DIES"]])

"""The application of the crash tests, run by real servers. Its environment says what it is about; files steer it.

A request with a `gate` in its payload says so (`<gate>.entered.<attempt>`) and goes no further until `<gate>.open` or
`<gate>.open.<attempt>` is there; then it does what that says: "exit" tears the handler off, "fail" raises, anything
else answers.
`<ledger>.kill.before` and `<ledger>.kill.after` kill the process before or after it keeps an answer, once.
Every run of the handler is a line of the ledger.
"""

import json
import os
import signal
import sys
import time
import uuid
from pathlib import Path

from flask import Flask, request

from flask_idempotency import Idempotency, Policy
from flask_idempotency.engine.records import Claim, StoredResponse
from flask_idempotency.stores import SQLiteStore

LEDGER = os.environ["TILL_LEDGER"]


class KillingStore(SQLiteStore):
    """Dies at a moment of its choice."""

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """See `Store.complete`."""
        die_if_told("before")
        kept = super().complete(claim, response, retention=retention)
        die_if_told("after")
        return kept


def die_if_told(moment: str) -> None:
    told = Path(f"{LEDGER}.kill.{moment}")
    if told.exists():
        told.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


app = Flask(__name__)
store = KillingStore(os.environ["TILL_STORE"], busy_timeout=float(os.environ.get("TILL_BUSY_TIMEOUT", "30")))
idempotency = Idempotency(app, store=store, policy=Policy(**json.loads(os.environ.get("TILL_POLICY", "{}"))))
if "TILL_USED_BY_MASTER" in os.environ:
    store.purge(limit=1)


def wait_at(*gates: Path) -> str:
    while True:
        for gate in gates:
            if gate.exists():
                return gate.read_text()
        time.sleep(0.01)


@app.post("/pay")
def pay() -> tuple[dict[str, object], int]:
    attempt = idempotency.attempt
    assert attempt is not None
    ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(ledger, f"{attempt.key} {os.getpid()}\n".encode())
    os.close(ledger)
    gate = request.get_json().get("gate")
    if gate:
        Path(f"{gate}.entered.{attempt.number}").touch()
        match wait_at(Path(f"{gate}.open"), Path(f"{gate}.open.{attempt.number}")):
            case "exit":
                sys.exit(1)
            case "fail":
                raise RuntimeError("this handler fails")
    return {"run": uuid.uuid4().hex, "number": attempt.number, "lapsed": attempt.lapsed}, 201


@app.get("/")
def alive() -> str:
    return "alive"

"""`flask idempotency resolve`: a person settles an outcome that nobody else can know."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from click.testing import Result
from flask import Flask

from flask_idempotency import Idempotency, Policy
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import MemoryStore

from .gunicorn import ROOT, TIMEOUT, Answer, Server, Till

OpenTill = Callable[..., Till]


def kill(till: Till, server: Server, payload: dict[str, str]) -> None:
    first = server.start_paying("k", payload)
    till.entered("gate")
    os.kill(till.runner("k"), signal.SIGKILL)
    assert first.answer().status == 0
    time.sleep(1.0)  # the lease


def fail(till: Till, server: Server, payload: dict[str, str]) -> None:
    till.open("gate", "fail", attempt=1)
    assert server.pay("k", payload).status == 500


def resolve(till: Till, *arguments: str) -> str:
    """What the command says; it must end well."""
    command = [sys.executable, "-m", "flask", "--app", "tests.crash.till", "idempotency", "resolve", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=till.environ, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def refuse_doubt(till: Till, end: Callable[[Till, Server, dict[str, str]], None]) -> tuple[Server, Answer]:
    """A request whose outcome is unknown, and what its repeats hear."""
    server = till.serve(workers=2)
    payload = till.gate("gate")
    end(till, server, payload)
    for _ in range(2):
        unknown = server.pay("k", payload)
        assert (unknown.status, unknown.problem) == (409, "outcome-unknown")
        assert "Retry-After" not in unknown.headers
    return server, unknown


@pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn needs a system with fork")
@pytest.mark.parametrize("end", [kill, fail])
def test_what_was_done_is_never_done_again(
    open_till: OpenTill, end: Callable[[Till, Server, dict[str, str]], None]
) -> None:
    till = open_till(lease=1.0, on_lapse="refuse", on_error="refuse")
    server, unknown = refuse_doubt(till, end)
    assert resolve(till, unknown.json["instance"], "--done") == "Resolved: done.\n"
    gone = server.pay("k", till.gate("gate"))
    assert (gone.status, gone.problem) == (409, "response-not-kept")
    assert till.runs() == {"k": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn needs a system with fork")
@pytest.mark.parametrize("end", [kill, fail])
def test_what_was_not_done_runs_with_the_next_repeat(
    open_till: OpenTill, end: Callable[[Till, Server, dict[str, str]], None]
) -> None:
    till = open_till(lease=1.0, on_lapse="refuse", on_error="refuse")
    server, unknown = refuse_doubt(till, end)
    digits = unknown.json["instance"].rsplit(":")[-1]
    assert resolve(till, digits, "--not-done") == "Resolved: not done, a repeat will run.\n"
    till.open("gate", attempt=2)
    again = server.pay("k", till.gate("gate"))
    assert (again.status, again.json["number"]) == (201, 2)
    assert server.pay("k", till.gate("gate")).replayed


class AwayStore(MemoryStore):
    def resolve(self, record_id: bytes, *, done: bool, retention: float) -> bool:
        """See `Store.resolve`."""
        raise StoreUnavailable("the server is down")


def run(*arguments: str, store: MemoryStore | None = None, ask: bool = False) -> tuple[Result, bytes]:
    """The command in an application of its own, and the record of a request that failed there, if it was asked."""
    app = Flask(__name__)
    policy = Policy(on_error="refuse")
    idempotency = Idempotency(app, store=store or MemoryStore(), policy=policy)
    record = b""

    @app.post("/pay")
    def pay() -> str:
        nonlocal record
        assert idempotency.attempt is not None
        record = idempotency.attempt.claim.record.id
        raise RuntimeError

    if ask:
        app.test_client().post("/pay", headers={"Idempotency-Key": "k"})
    filled = [argument.format(record=record.hex()) for argument in arguments]
    return app.test_cli_runner().invoke(args=["idempotency", "resolve", *filled]), record


def test_it_takes_the_record_as_the_problem_names_it_or_its_digits() -> None:
    for record in ("urn:flask-idempotency:record:{record}", "{record}"):
        assert run(record, "--done", ask=True)[0].exit_code == 0


@pytest.mark.parametrize("record", ["xyz", "urn:flask-idempotency:record:", "urn:other:00", "0"])
def test_what_is_no_record_is_said_to_be_none(record: str) -> None:
    result, _ = run(record, "--done", ask=True)
    assert result.exit_code == 2
    assert "is not a record" in result.output


def test_a_record_that_nobody_knows_or_whose_outcome_is_known_is_an_error() -> None:
    result, _ = run("00" * 16, "--done", ask=True)
    assert (result.exit_code, "no such record whose outcome is unknown" in result.output) == (1, True)


@pytest.mark.parametrize("options", [[], ["--dnoe"]])
def test_one_must_say_whether_it_was_done(options: list[str]) -> None:
    assert run("00" * 16, *options)[0].exit_code == 2


def test_a_store_out_of_reach_is_said_to_be() -> None:
    result, _ = run("00" * 16, "--done", store=AwayStore())
    assert result.exit_code == 1
    assert "The store cannot be reached: the server is down" in result.output

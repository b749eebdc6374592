"""A page that pays at another origin, whose server says by Flask-CORS what the browser lets through."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, request
from flask_cors import CORS
from playwright.sync_api import Page

from ..faulty_network import Fault, FaultyNetwork
from ..flask_till import FlaskTill
from ..payment_server import Canned, Running, Till

#: As the documentation shows them.
ALLOW = ["Content-Type", "Idempotency-Key"]
EXPOSE = ["Retry-After", "Idempotent-Replayed"]

PAYMENT = {"amount": 4200, "currency": "eur"}
IN_FLIGHT = Canned.problem(409, "request-in-progress", ("Retry-After", "0"))

Pay = Callable[..., dict[str, Any]]


@pytest.fixture
def elsewhere() -> Iterator[Running]:
    """A server at an origin that is not the page's."""
    with Running(None) as running:
        yield running


@pytest.fixture
def pay(page: Page) -> Pay:
    """Lets the page pay there."""

    def pay(url: str) -> dict[str, Any]:
        init = {"path": f"{url}/v1/payment_intents", "headers": {"Content-Type": "application/json"}}
        told: dict[str, Any] = page.evaluate("([payment, init]) => pay(payment, init)", [PAYMENT, init])
        return told

    return pay


def behind_cors(till: Till, **lines: Any) -> Flask:
    """The till as a Flask app that answers pages of other origins."""
    app = Flask("till_behind_cors")
    CORS(app, **lines)
    app.add_url_rule(
        "/v1/payment_intents", view_func=lambda: Response.from_app(till, request.environ), methods=["POST"]
    )
    return app


def test_with_the_documented_lines_a_lost_answer_is_replayed_to_a_page_of_another_origin(
    pay: Pay, elsewhere: Running, tmp_path: Path
) -> None:
    till = FlaskTill(tmp_path)
    CORS(till.app, allow_headers=ALLOW, expose_headers=EXPOSE)
    elsewhere.app = till.app
    # The preflight passes; Chromium by itself repeats a request whose connection it had opened ahead.
    with FaultyNetwork(elsewhere.address, [Fault.NONE, Fault.LOSE_ANSWER, Fault.LOSE_ANSWER]) as network:
        told = pay(network.url)

    assert (told["status"], json.loads(told["text"])["amount"]) == (200, 4200)
    assert told["attempts"][-1]["replayed"]
    assert till.charges == [4200]


def test_with_the_documented_lines_a_conflict_that_says_when_is_waited_out(
    pay: Pay, elsewhere: Running, till: Till
) -> None:
    elsewhere.app = behind_cors(till, allow_headers=ALLOW, expose_headers=EXPOSE)
    till.canned.append(IN_FLIGHT)

    assert pay(elsewhere.url)["status"] == 201
    assert len(set(till.keys)) == 1
    assert len(till.seen) == 2


def test_without_retry_after_among_the_exposed_a_conflict_looks_final(pay: Pay, elsewhere: Running, till: Till) -> None:
    elsewhere.app = behind_cors(till, allow_headers=ALLOW)
    till.canned.append(IN_FLIGHT)

    assert pay(elsewhere.url)["status"] == 409
    assert len(till.seen) == 1


def test_without_the_key_among_the_allowed_nothing_is_sent(pay: Pay, elsewhere: Running, till: Till) -> None:
    elsewhere.app = behind_cors(till, allow_headers=["Content-Type"], expose_headers=EXPOSE)

    assert pay(elsewhere.url)["error"] == "TypeError"
    assert till.seen == []

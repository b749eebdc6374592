"""The helpers that are shipped for users' tests tell safe views from unsafe ones."""

import itertools

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_idempotency import Idempotency
from flask_idempotency.stores import MemoryStore
from flask_idempotency.testing import assert_retry_safe


@pytest.fixture
def client() -> FlaskClient:
    app = Flask(__name__)
    idempotency = Idempotency(app, store=MemoryStore())
    charges = itertools.count(1)
    app.add_url_rule("/safe", "safe", lambda: ({"charge": next(charges)}, 201), methods=["POST", "PATCH"])
    unsafe = idempotency.exempt(lambda: ({"charge": next(charges)}, 201))
    app.add_url_rule("/unsafe", "unsafe", unsafe, methods=["POST"])
    app.add_url_rule("/refuses", "refuses", lambda: ("no", 402), methods=["POST"])
    return app.test_client()


def test_a_safe_view_passes_and_gives_its_first_answer(client: FlaskClient) -> None:
    assert assert_retry_safe(client, "/safe", json={"amount": 1}, headers={"X-Other": "1"}).json == {"charge": 1}
    assert assert_retry_safe(client, "/safe", method="PATCH").status_code == 201


@pytest.mark.parametrize("path", ["/unsafe", "/refuses"])
def test_a_view_that_would_run_twice_fails(client: FlaskClient, path: str) -> None:
    with pytest.raises(AssertionError, match="the repeat was not replayed"):
        assert_retry_safe(client, path)


def test_the_plugin_gives_a_key_that_serves(client: FlaskClient, idempotency_key: str) -> None:
    answers = [client.post("/safe", headers={"Idempotency-Key": idempotency_key}).json for _ in range(2)]
    assert answers == [{"charge": 1}, {"charge": 1}]

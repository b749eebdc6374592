"""Flask signs the cookie of a permanent session anew on each response: its bytes say nothing about who asks."""

from typing import Any

import pytest
from flask import Flask, session
from freezegun import freeze_time

from flask_idempotency import Idempotency
from flask_idempotency.stores import MemoryStore


@pytest.mark.parametrize("content", [{"user_id": "ann"}, {"basket": [1, 2]}], ids=["who it is", "nothing about who"])
def test_a_retry_with_the_cookie_that_came_meanwhile_is_a_replay(content: dict[str, Any]) -> None:
    app = Flask(__name__)
    app.secret_key = "secret"
    Idempotency(app, store=MemoryStore())
    runs: list[str] = []

    @app.get("/login")
    def login() -> str:
        session.permanent = True
        session.update(content)
        return "hello"

    @app.post("/pay")
    def pay() -> str:
        runs.append("run")
        return f"paid {len(runs)}"

    client, cookies = app.test_client(), set()
    with freeze_time("2026-11-24 12:00:00") as clock:
        client.get("/login")
        for retry in range(3):
            clock.tick(60)
            response = client.post("/pay", headers={"Idempotency-Key": "k"})
            assert (response.text, "Idempotent-Replayed" in response.headers) == ("paid 1", retry > 0)
            cookie = client.get_cookie("session")
            assert cookie is not None
            cookies.add(cookie.value)
            assert client.get("/login").status_code == 200
    assert len(cookies) == 3
    assert runs == ["run"]

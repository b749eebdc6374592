"""A store of one process, in a server that has several."""

import logging

import pytest
from flask import Flask

from flask_idempotency import Idempotency
from flask_idempotency.stores import MemoryStore, SQLiteStore


@pytest.mark.parametrize(
    ("multiprocess", "memory", "warned"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_a_server_of_several_processes_is_warned_once_of_a_store_that_they_do_not_share(
    multiprocess: bool, memory: bool, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask(__name__)
    Idempotency(app, store=MemoryStore() if memory else SQLiteStore(":memory:"))
    app.post("/")(lambda: "done")
    with caplog.at_level(logging.WARNING, "flask_idempotency"):
        for key in ("one", "two"):
            answer = app.test_client().post(
                "/", headers={"Idempotency-Key": key}, environ_overrides={"wsgi.multiprocess": multiprocess}
            )
            assert answer.status_code == 200
    assert sum("several processes" in record.message for record in caplog.records) == warned

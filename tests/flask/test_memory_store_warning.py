"""A store of one process, in a server that has several."""

import logging
from collections.abc import Callable

import pytest
from flask import Flask

from flask_idempotency import Idempotency
from flask_idempotency.engine.store import Store
from flask_idempotency.stores import MemoryStore, SQLiteStore
from flask_idempotency.stores.encrypted import EncryptedStore


def encrypted_memory() -> Store:
    return EncryptedStore(MemoryStore(), [b"k" * 64])


@pytest.mark.parametrize(
    ("multiprocess", "make_store", "warned"),
    [
        (True, MemoryStore, True),
        (True, encrypted_memory, True),
        (False, MemoryStore, False),
        (True, lambda: SQLiteStore(":memory:"), False),
    ],
)
def test_a_server_of_several_processes_is_warned_once_of_a_store_that_they_do_not_share(
    multiprocess: bool, make_store: Callable[[], Store], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask(__name__)
    Idempotency(app, store=make_store())
    app.post("/")(lambda: "done")
    with caplog.at_level(logging.WARNING, "flask_idempotency"):
        for key in ("one", "two"):
            answer = app.test_client().post(
                "/", headers={"Idempotency-Key": key}, environ_overrides={"wsgi.multiprocess": multiprocess}
            )
            assert answer.status_code == 200
    assert sum("several processes" in record.message for record in caplog.records) == warned

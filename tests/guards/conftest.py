"""What a request costs is counted without the heartbeat, which comes by when it will."""

import pytest

from flask_idempotency.engine.heartbeat import heartbeat


@pytest.fixture(autouse=True)
def no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_tick", lambda: None)

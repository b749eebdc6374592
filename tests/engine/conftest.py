from collections.abc import Iterator

import pytest
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from flask_idempotency.engine.heartbeat import heartbeat


@pytest.fixture(autouse=True)
def beats_when_told(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The heartbeat of this process beats where a test says so, and each test leaves nothing in it."""
    # What tests of other rooms left to lapse is theirs.
    heartbeat._beats.clear()
    heartbeat.owed.clear()
    with monkeypatch.context() as still:
        still.setattr(heartbeat, "_tick", lambda: None)
        yield
    held, owes = len(heartbeat), bool(heartbeat.owed)
    heartbeat._beats.clear()
    heartbeat.owed.clear()
    assert (held, owes) == (0, False)


@pytest.fixture
def clock() -> Iterator[FrozenDateTimeFactory]:
    """The time, which passes where a test says so."""
    with freeze_time("2026-11-24 12:00:00") as stopped:
        assert isinstance(stopped, FrozenDateTimeFactory)
        yield stopped

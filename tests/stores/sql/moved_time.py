"""The contract where nobody waits: time is taken from the records instead."""

from collections.abc import Callable

import pytest
from sqlalchemy import create_engine, text

from flask_idempotency.testing import StoreContract


class WithMovedTime(StoreContract):
    """Each lease and retention ends sooner by as much as a test lets pass."""

    short = 30.0
    url: str

    @pytest.fixture
    def pass_time(self) -> Callable[[float], None]:
        sooner = text(
            "UPDATE idempotency_records SET started = started - :s, lease_ends = lease_ends - :s, "
            "expires_at = expires_at - :s"
        )

        def pass_time(seconds: float) -> None:
            engine = create_engine(self.url)
            with engine.begin() as connection:
                connection.execute(sooner, {"s": seconds})
            engine.dispose()

        return pass_time

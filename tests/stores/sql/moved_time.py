"""The contract where nobody waits: time is taken from the records instead."""

from sqlalchemy import create_engine, text

from flask_idempotency.testing import StoreContract


class WithMovedTime(StoreContract):
    """Each lease and retention ends sooner by as much as a test lets pass."""

    short = 30.0
    url: str

    def let_pass(self, seconds: float) -> None:
        engine = create_engine(self.url)
        sooner = "UPDATE idempotency_records SET lease_ends = lease_ends - :s, expires_at = expires_at - :s"
        with engine.begin() as connection:
            connection.execute(text(sooner), {"s": seconds})
        engine.dispose()

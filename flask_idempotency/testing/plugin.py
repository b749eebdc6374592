"""The pytest plugin: installed with the package, it gives tests the fixture `idempotency_key`."""

import pytest

# Before the modules are imported: their assertions shall explain themselves in users' tests, too.
pytest.register_assert_rewrite("flask_idempotency.testing.contract", "flask_idempotency.testing.retry")


@pytest.fixture
def idempotency_key() -> str:
    """A key that was never used, for the `Idempotency-Key` header of one operation and its retries."""
    from .retry import new_key

    return new_key()

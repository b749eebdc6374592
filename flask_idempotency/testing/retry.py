"""Checks, in an application's own tests, that a request may be retried."""

import uuid
from typing import Any

from werkzeug.test import Client, TestResponse

from ..http.replay import REPLAYED_HEADER

_NAME, _VALUE = REPLAYED_HEADER


def new_key() -> str:
    """A key that was never used."""
    return str(uuid.uuid4())


def assert_retry_safe(
    client: Client, path: str, *, method: str = "POST", header: str = "Idempotency-Key", **request: Any
) -> TestResponse:
    """Send a request twice under one new key, and check that the second answer is a replay of the first.

    `client` is Flask's or Werkzeug's test client; `request` is passed on to it (`json=`, `data=`, `headers=`, …).
    Returns the first answer. Raises `AssertionError` where the work may have been done twice.
    """
    headers = {**dict(request.pop("headers", {})), header: new_key()}
    first, again = (client.open(path, method=method, headers=headers, **request) for _ in range(2))
    assert _NAME not in first.headers, "the first answer is a replay already"
    assert again.headers.get(_NAME) == _VALUE, (
        f"the repeat was not replayed: {method} {path} answered {first.status}, then {again.status}; "
        "only kept responses are replayed, by default those with a 2xx status"
    )
    assert (again.status, again.get_data()) == (first.status, first.get_data()), "the replay differs from the answer"
    return first

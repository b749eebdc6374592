"""The client side stands alone: no server code, and no HTTP library but the one that is used."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


REPORT = (
    "; ours = {'requests', 'httpx', 'tenacity', 'flask', 'werkzeug', 'jinja2', 'redis', 'sqlalchemy'} | "
    "{'flask_idempotency.' + room for room in ('extension', 'middleware', 'engine', 'http', 'stores', 'exactly_once')}"
    "; print(*sorted(ours & set(sys.modules)))"
)


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("import flask_idempotency.client", ""),
        ("from flask_idempotency.client import key_for, PendingKeys, RetryPolicy", ""),
        ("from flask_idempotency.client import IdempotencyAdapter", "requests tenacity"),
        ("from flask_idempotency.client import IdempotencyTransport", "httpx tenacity"),
        ("from flask_idempotency.client import AsyncIdempotencyTransport", "httpx tenacity"),
    ],
)
def test_only_what_is_used_is_loaded(code: str, loaded: str) -> None:
    assert run(f"import sys; {code}{REPORT}") == loaded


@pytest.mark.parametrize(
    ("missing", "name", "extra"),
    [
        ("requests", "IdempotencyAdapter", "flask-idempotency[requests]"),
        ("httpx", "IdempotencyTransport", "flask-idempotency[httpx]"),
        ("httpx", "AsyncIdempotencyTransport", "flask-idempotency[httpx]"),
        ("tenacity", "IdempotencyAdapter", "flask-idempotency[requests]"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(missing: str, name: str, extra: str) -> None:
    # None in sys.modules is how Python marks a module that must not be found.
    told = run(
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"try: from flask_idempotency.client import {name}\n"
        "except ImportError as error: print(error)"
    )

    assert extra in told
    assert missing in told


@pytest.mark.parametrize(("missing", "name"), [("requests", "IdempotencyTransport"), ("httpx", "IdempotencyAdapter")])
def test_neither_library_needs_the_other(missing: str, name: str) -> None:
    run(f"import sys; sys.modules[{missing!r}] = None; from flask_idempotency.client import {name}; {name}()")


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    import flask_idempotency.client

    with pytest.raises(AttributeError, match="IdempotencyTransprot"):
        _ = flask_idempotency.client.IdempotencyTransprot


def test_every_public_name_is_there() -> None:
    import flask_idempotency.client

    for name in flask_idempotency.client.__all__:
        assert getattr(flask_idempotency.client, name).__doc__

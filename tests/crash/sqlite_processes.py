"""Other processes for the tests of the SQLite store: each runs a piece of Python that prints what it saw."""

import subprocess
import sys
import textwrap
from pathlib import Path

PRELUDE = """
import os, signal, sys, threading, time
from pathlib import Path
from flask_idempotency.engine.records import Claim, Claimed, Completed, InProgress, Lapsed, RecordKey, StoredResponse
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import SQLiteStore

path = sys.argv[1]
FINGERPRINT = b"f" * 16

def record(name):
    return RecordKey.of(b"p" * 16, name)

def claim(store, name, *, lease=60.0):
    options = {"retention": 3600.0, "take_over": True, "durable": False}
    return store.claim(record(name), FINGERPRINT, lease=lease, **options)

def answer(name):
    return StoredResponse("200 OK", (), name.encode())

def do(store, name):
    "One request, from its claim to its answer."
    outcome = claim(store, name)
    assert isinstance(outcome, Claimed), outcome
    assert store.complete(outcome.claim, answer(name), retention=3600.0)
"""


def start(path: Path, code: str, *, stdin: int | None = None) -> "subprocess.Popen[str]":
    """Run `code`, which sees the file's path as `path`."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=stdin,
        text=True,
    )


def run(path: Path, code: str, *, timeout: float = 60.0) -> str:
    """What `code` prints; it must end well, and in time."""
    process = start(path, code)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s; it had printed:\n{out}\n{err}") from None
    assert process.returncode == 0, err
    return out.strip()

"""How often a request waits for the disk, counted by the system calls that do so."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..crash.sqlite_processes import PRELUDE

REQUESTS = """
store = SQLiteStore(path, durable={durable})
for number in range(int(sys.argv[2])):
    options = {{"take_over": {take_over}, "durable": {durable_claims}}}
    outcome = store.claim(record(str(number)), FINGERPRINT, lease=60.0, retention=3600.0, **options)
    assert isinstance(outcome, Claimed)
    assert store.complete(outcome.claim, answer(str(number)), retention=3600.0)
    assert isinstance(claim(store, str(number)), Completed)
    store.renew([outcome.claim], lease=60.0)
    outcome = claim(store, "released later")
    assert store.release(outcome.claim, retention=3600.0)
os._exit(0)
"""


def traced(command: list[str], log: Path) -> int:
    """How many times `command` has the system write a file through to the disk."""
    syncs = "fsync,fdatasync,sync_file_range,msync,sync,syncfs"
    subprocess.run(
        ["strace", "-f", "-qq", "-e", f"trace={syncs}", "-e", "signal=none", "-o", str(log), *command],
        check=True,
        timeout=60,
    )
    return log.read_text().count("sync(")


def syncs_by(folder: Path, code: str) -> float:
    """How often each of the requests waits for the disk, of which `code` sends as many as it is told to."""
    few, many = 5, 45

    def syncs(requests: int) -> int:
        return traced([sys.executable, "-c", code, str(folder / f"{requests}.db"), str(requests)], folder / "log")

    # What it takes to make the file is in both.
    return (syncs(many) - syncs(few)) / (many - few)


def can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_trace(), reason="strace is not installed, or may not trace here")
@pytest.mark.parametrize(
    ("durable", "take_over", "durable_claims", "expected"),
    [
        (True, True, False, 1),
        (False, True, False, 0),
        (True, False, False, 2),
        (False, False, False, 0),
        (True, True, True, 2),
        (False, True, True, 0),
    ],
    ids=[
        "durable",
        "fast",
        "durable, and a lapse is refused",
        "fast, and a lapse is refused",
        "durable, claims too",
        "fast, whatever is said of claims",
    ],
)
def test_a_fresh_request_waits_for_the_disk_as_often_as_its_promise_needs(
    tmp_path: Path, durable: bool, take_over: bool, durable_claims: bool, expected: int
) -> None:
    code = PRELUDE + REQUESTS.format(durable=durable, take_over=take_over, durable_claims=durable_claims)
    assert syncs_by(tmp_path, code) == expected


OTHER_CALLS = {
    "a stream that begins": "store.answering(outcome.claim, lease=60.0)",
    "an outcome left unknown": "store.abandon(outcome.claim)",
    "a kept step": "store.keep_step(outcome.claim, 'charge', b'paid', retention=3600.0)",
    "a renewal": "store.renew([outcome.claim], lease=60.0)",
}


@pytest.mark.skipif(not can_trace(), reason="strace is not installed, or may not trace here")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [("a stream that begins", 1), ("an outcome left unknown", 1), ("a kept step", 1), ("a renewal", 0)],
)
def test_what_must_survive_power_loss_waits_for_the_disk_and_nothing_else_does(
    tmp_path: Path, kind: str, expected: int
) -> None:
    code = f"""
store = SQLiteStore(path)
for number in range(int(sys.argv[2])):
    outcome = claim(store, str(number))
    {OTHER_CALLS[kind]}
os._exit(0)
"""
    assert syncs_by(tmp_path, PRELUDE + code) == expected

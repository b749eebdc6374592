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
    outcome = store.claim(record(str(number)), FINGERPRINT, lease=60.0, retention=3600.0, take_over={take_over})
    assert isinstance(outcome, Claimed)
    assert store.complete(outcome.claim, answer(str(number)), retention=3600.0)
    assert isinstance(claim(store, str(number)), Completed)
    store.renew([outcome.claim], lease=60.0)
    outcome = claim(store, "released later")
    assert store.release(outcome.claim)
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


def can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_trace(), reason="strace is not installed, or may not trace here")
@pytest.mark.parametrize(
    ("durable", "take_over", "expected"),
    [(True, True, 1), (False, True, 0), (True, False, 2), (False, False, 0)],
    ids=["durable", "fast", "durable, and a lapse is refused", "fast, and a lapse is refused"],
)
def test_a_fresh_request_waits_for_the_disk_as_often_as_its_promise_needs(
    tmp_path: Path, durable: bool, take_over: bool, expected: int
) -> None:
    code = PRELUDE + REQUESTS.format(durable=durable, take_over=take_over)
    few, many = 5, 45

    def syncs(requests: int) -> int:
        path = tmp_path / f"{requests}.db"
        return traced([sys.executable, "-c", code, str(path), str(requests)], tmp_path / "log")

    # What it takes to make the file is in both.
    assert syncs(many) - syncs(few) == expected * (many - few)

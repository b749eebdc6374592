"""The Angular client's own tests, in the Node that Angular asks for."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ..browser.needs import lacks

CLIENT = Path(__file__).parents[3] / "clients/angular"

#: Seconds. An installation takes about 15, the tests about 10.
PATIENCE = 120


@pytest.fixture(scope="module")
def npm() -> str:
    """npm, with the client's packages installed as its lock file says."""
    found = shutil.which("npm")
    if found is None:
        lacks("npm, which is not on this machine")
    lock = (CLIENT / "package-lock.json").read_bytes()
    installed = CLIENT / "node_modules/.installed"
    if not installed.exists() or installed.read_text() != hashlib.sha256(lock).hexdigest():
        done = run(found, "ci", "--no-audit", "--no-fund")
        if done.returncode:
            lacks(f"npm's packages, which could not be installed: {done.stdout[-2000:]}")
        installed.write_text(hashlib.sha256(lock).hexdigest())
    return found


def run(npm: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [npm, *arguments],
        cwd=CLIENT,
        env={**os.environ, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )


def test_the_angular_client_compiles_and_passes_its_tests(npm: str) -> None:
    done = run(npm, "test")

    assert done.returncode == 0, done.stdout
    assert re.search(r"Tests +[1-9]\d* passed", done.stdout), done.stdout


def test_the_lock_file_names_no_registry() -> None:
    resolved = re.findall(r'"resolved": "(.*)"', (CLIENT / "package-lock.json").read_text())

    assert resolved == ["../../flask_idempotency/client/browser"]

"""The example shop as `make run` starts it, in a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[2]

#: Seconds that anything here may take before it counts as broken.
PATIENCE = 30


@contextmanager
def running_shop(directory: Path) -> Iterator[str]:
    """The shop's URL, until the block ends. What it writes is kept in `directory`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "FLASK_SHOP_DATABASE": str(directory / "shop.db"),
        "FLASK_IDEMPOTENCY_STORE_URL": f"sqlite:///{directory / 'idempotency.db'}",
    }
    command = [sys.executable, "-m", "flask", "--app", "example_app", "run", "--port", str(port)]
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=log, stderr=log)
    try:
        ends = time.monotonic() + PATIENCE
        while not _listens(port):
            assert server.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < ends, "the shop does not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(PATIENCE)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

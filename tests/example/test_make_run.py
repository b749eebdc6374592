"""`make run`, which shows the shop to a newcomer."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("port", "said"), [({}, "5000"), ({"PORT": "8123"}, "8123")])
def test_make_run_serves_the_shop_where_it_is_told_to(port: dict[str, str], said: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PORT", "MAKEFLAGS")}
    # What it would do: to do it takes an environment of its own.
    command = ["make", "--no-print-directory", "--dry-run", "--old-file=.venv/example", "run"]
    done = subprocess.run(command, cwd=ROOT, env=environment | port, capture_output=True, text=True, check=True)

    assert done.stdout.split() == [".venv/bin/flask", "--app", "example_app", "run", "--port", said]

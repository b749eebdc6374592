"""The README is executed: its Python runs, its shell session gives what it says."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def sessions() -> list[tuple[str, list[str]]]:
    """Each command of the README's shell sessions, with the lines that it says follow."""
    steps: list[tuple[str, list[str]]] = []
    for line in "\n".join(blocks("console")).splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        elif line:
            steps[-1][1].append(line)
    return steps


@pytest.mark.parametrize("code", blocks("python"), ids=range(len(blocks("python"))))
def test_each_python_example_runs_as_it_stands(code: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "FLASK_SHOP_DATABASE": str(tmp_path / "shop.db"),
        "FLASK_IDEMPOTENCY_STORE_URL": f"sqlite:///{tmp_path / 'idempotency.db'}",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "example_app", "run", "--port", str(port)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


@pytest.mark.skipif(shutil.which("curl") is None and not os.environ.get("CI"), reason="needs curl")
def test_the_walk_through_the_shop_goes_as_the_readme_says(shop: int) -> None:
    steps = sessions()
    assert len(steps) > 10
    for command, expected in steps:
        done = subprocess.run(
            command.replace("127.0.0.1:5000", f"127.0.0.1:{shop}"),
            shell=True,
            capture_output=True,
            text=True,
            timeout=20,
        )
        answered = done.stdout.splitlines()
        for line in expected:
            # An ellipsis stands for what differs from run to run.
            pattern = ".*".join(map(re.escape, line.split("…")))
            assert any(re.fullmatch(pattern, heard.strip()) for heard in answered), (command, line, done.stdout)


def test_the_configuration_table_names_every_option() -> None:
    from flask_idempotency.engine.policy import OPTIONS, VIEW_OPTIONS
    from flask_idempotency.extension.settings import OTHER_KEYS

    named = re.findall(r"^\| `(IDEMPOTENCY_\w+)`( ᵛ)? ", README, flags=re.MULTILINE)
    assert {key for key, _ in named} == {f"IDEMPOTENCY_{option.upper()}" for option in OPTIONS} | set(OTHER_KEYS)
    assert {key for key, of_views in named if of_views} == {f"IDEMPOTENCY_{option.upper()}" for option in VIEW_OPTIONS}


def test_the_table_of_decisions_names_every_problem() -> None:
    from flask_idempotency.http.problems import PROBLEMS

    table = README.partition("## How it decides")[2].partition("\n## ")[0]
    assert all(f"`{slug}`" in table for slug in PROBLEMS)

"""Many clients with the same keys at real servers at the same time: one run per key, one answer for all."""

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask

from flask_idempotency import Idempotency, Policy
from flask_idempotency.stores import SQLiteStore

from .gunicorn import TIMEOUT, Answer, Server, Till

OpenTill = Callable[..., Till]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn needs a system with fork")


def race(servers: list[Server], keys: int, repeats: int) -> dict[str, list[Answer]]:
    """Send each key `repeats` times, from 32 clients, in an order in which repeats meet each other."""
    requests = [str(key) for key in range(keys) for _ in range(repeats)]
    draw = random.Random(3)
    # Repeats stay near each other, so that they meet while the first runs.
    requests.sort(key=lambda key: int(key) + draw.random() * 8)
    answers: dict[str, list[Answer]] = {key: [] for key in requests}

    def pay(numbered: tuple[int, str]) -> None:
        number, key = numbered
        answers[key].append(servers[number % len(servers)].pay_until_done(key))

    with ThreadPoolExecutor(32) as clients:
        list(clients.map(pay, enumerate(requests), timeout=4 * TIMEOUT))
    return answers


@needs_fork
@pytest.mark.parametrize(
    ("kind", "workers", "threads", "servers"),
    [("gthread", 4, 8, 1), ("sync", 2, 1, 2), ("gevent", 4, 1, 1)],
    ids=["4 processes x 8 threads", "two servers of 2 processes", "gevent"],
)
def test_each_key_runs_once_and_all_hear_the_same(
    open_till: OpenTill, kind: str, workers: int, threads: int, servers: int
) -> None:
    till = open_till()
    running = [
        till.serve(kind=kind, workers=workers, threads=threads, preload=kind == "gevent") for _ in range(servers)
    ]
    answers = race(running, keys=200, repeats=4)
    assert set(till.runs().values()) == {1}
    assert len(till.runs()) == 200
    for of_one_key in answers.values():
        assert [answer.status for answer in of_one_key] == [201] * 4
        assert len({answer.json["run"] for answer in of_one_key}) == 1
        assert sum(not answer.replayed for answer in of_one_key) == 1


def test_of_64_threads_with_one_key_one_runs_and_the_rest_hear_of_it(tmp_path: Path) -> None:
    app = Flask(__name__)
    Idempotency(app, store=SQLiteStore(tmp_path / "idempotency.db"), policy=Policy(wait=0))
    runs: list[str] = []

    @app.post("/pay")
    def pay() -> tuple[dict[str, int], int]:
        runs.append("run")
        return {"run": len(runs)}, 201

    for round_number in range(5):
        together = threading.Barrier(64)

        def ask(key: str, together: threading.Barrier = together) -> tuple[int, bytes]:
            together.wait(TIMEOUT)
            while True:
                response = app.test_client().post("/pay", headers={"Idempotency-Key": key})
                if response.status_code != 409:
                    return response.status_code, response.data

        with ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(ask, [f"key-{round_number}"] * 64, timeout=2 * TIMEOUT))
        assert len(runs) == round_number + 1
        assert len(set(answers)) == 1
        assert answers[0][0] == 201

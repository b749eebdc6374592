"""Many clients with the same keys at real servers at the same time: one run per key, one answer for all."""

import os
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask

from flask_idempotency import Idempotency
from flask_idempotency.stores import SQLiteStore

from .gunicorn import TIMEOUT, Answer, Server, Till

OpenTill = Callable[..., Till]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn needs a system with fork")


def race(
    servers: Sequence["Server | InThisProcess"], *, keys: int, repeats: int, clients: int = 32
) -> dict[str, list[Answer]]:
    """Send each key `repeats` times, from so many clients, in an order in which repeats meet each other."""
    requests = [str(key) for key in range(keys) for _ in range(repeats)]
    draw = random.Random(3)
    # Repeats stay near each other, so that they meet while the first runs.
    requests.sort(key=lambda key: int(key) + draw.random() * 8)
    answers: dict[str, list[Answer]] = {key: [] for key in requests}

    def pay(numbered: tuple[int, str]) -> None:
        number, key = numbered
        answers[key].append(servers[number % len(servers)].pay_until_done(key))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(pay, enumerate(requests), timeout=4 * TIMEOUT))
    return answers


def assert_one_answer_each(answers: dict[str, list[Answer]], keys: int, runs: Counter[str]) -> None:
    assert len(answers) == len(runs) == keys
    assert set(runs.values()) == {1}
    for of_one_key in answers.values():
        assert {answer.status for answer in of_one_key} == {201}
        assert len({answer.json["run"] for answer in of_one_key}) == 1
        assert sum(not answer.replayed for answer in of_one_key) == 1


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
    assert_one_answer_each(answers, 200, till.runs())


class InThisProcess:
    """The same, without a server: one application, asked by as many threads as there are clients."""

    def __init__(self, path: Path) -> None:
        self.runs: Counter[str] = Counter()
        self._app = app = Flask(__name__)
        idempotency = Idempotency(app, store=SQLiteStore(path))

        @app.post("/pay")
        def pay() -> tuple[dict[str, str], int]:
            assert idempotency.attempt is not None
            self.runs[idempotency.attempt.key] += 1
            return {"run": uuid.uuid4().hex}, 201

    def pay_until_done(self, key: str) -> Answer:
        while True:
            response = self._app.test_client().post("/pay", headers={"Idempotency-Key": key})
            if response.status_code != 409:
                return Answer(response.status_code, dict(response.headers), response.get_json(force=True))


def test_64_threads_run_each_key_once_and_all_hear_the_same(tmp_path: Path) -> None:
    till = InThisProcess(tmp_path / "idempotency.db")
    answers = race([till], keys=200, repeats=4, clients=64)
    assert_one_answer_each(answers, 200, till.runs)


def test_of_64_threads_with_one_key_one_runs_and_the_rest_hear_of_it(tmp_path: Path) -> None:
    till = InThisProcess(tmp_path / "idempotency.db")
    for number in range(5):
        together = threading.Barrier(64)

        def ask(key: str, together: threading.Barrier = together) -> Answer:
            together.wait(TIMEOUT)
            return till.pay_until_done(key)

        with ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(ask, [str(number)] * 64, timeout=2 * TIMEOUT))
        assert till.runs[str(number)] == 1
        assert sum(not answer.replayed for answer in answers) == 1
        assert len({answer.json["run"] for answer in answers}) == 1

"""Many clients, several server processes, one run for each key; and processes that fork."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

import pytest

from flask_idempotency.engine.records import Completed, InProgress
from flask_idempotency.stores.redis import RedisStore
from flask_idempotency.testing.contract import DAY, FINGERPRINT, RESPONSE

from . import servers
from .calls import claim, must_claim, new_record

RACERS = 64

#: How many keys are raced for. More are asked for by RACE_KEYS=200; a run of the whole suite has less time.
KEYS = int(os.environ.get("RACE_KEYS", "10"))


@contextmanager
def serving(store: str, counter: str) -> Iterator[int]:
    """A gunicorn of its own: the port it listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        command = [sys.executable, "-m", "gunicorn", "--bind", f"fd://{listener.fileno()}", "--worker-class", "gthread"]
        command += ["--threads", "40", "--keep-alive", "60", "--log-level", "warning", f"{__package__}.race_app:app"]
        process = subprocess.Popen(
            command,
            env={**os.environ, "RACE_STORE": store, "RACE_COUNTER": counter},
            pass_fds=[listener.fileno()],
        )
        try:
            yield listener.getsockname()[1]
        finally:
            process.terminate()
            process.wait(servers.PATIENCE)


def race(key: str, connections: list[http.client.HTTPConnection]) -> list[tuple[int, str | None, bytes]]:
    """What each racer hears who asks for `key` at the same moment as all others."""
    start = threading.Barrier(len(connections))

    def ask(connection: http.client.HTTPConnection) -> tuple[int, str | None, bytes]:
        start.wait(servers.PATIENCE)
        # The same host, whatever the port: it is part of what is asked for.
        connection.request("POST", "/orders", b"{}", {"Idempotency-Key": key, "Host": "shop.example"})
        response = connection.getresponse()
        return response.status, response.getheader("Idempotent-Replayed"), response.read()

    with ThreadPoolExecutor(len(connections)) as pool:
        return list(pool.map(ask, connections))


@pytest.mark.parametrize("kind", ["one server", "cluster"])
def test_of_64_racers_over_two_server_processes_one_runs(
    kind: str, valkey: servers.Server, valkey_cluster: list[servers.Server]
) -> None:
    store = valkey.url if kind == "one server" else servers.cluster_url(valkey_cluster)
    with ExitStack() as stack:
        ports = [stack.enter_context(serving(store, valkey.url)) for _ in range(2)]
        racers = [
            stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", ports[n % 2], timeout=30)))
            for n in range(RACERS)
        ]
        heard: Counter[tuple[int, str | None]] = Counter()
        with valkey.client() as counter:
            for _ in range(KEYS):
                key = str(uuid.uuid4())
                answers = race(key, racers)
                heard.update((status, replayed) for status, replayed, _ in answers)
                bodies = {body for status, _, body in answers if status == 201}
                assert len(bodies) == 1
                assert [replayed for status, replayed, _ in answers if status == 201].count(None) == 1
                assert counter.get(f"ran:{key}") == b"1"
    assert heard[201, None] == KEYS
    assert set(heard) <= {(201, None), (201, "true"), (409, None)}
    assert sum(heard.values()) == KEYS * RACERS
    print(f"{kind}: {RACERS} racers x {KEYS} keys, {dict(heard)}")


@pytest.mark.parametrize("kind", ["one server", "cluster"])
def test_a_forked_child_has_connections_of_its_own(
    kind: str, valkey: servers.Server, valkey_cluster: list[servers.Server]
) -> None:
    store = RedisStore.from_url(valkey.url if kind == "one server" else servers.cluster_url(valkey_cluster))
    held = must_claim(store, record := new_record())

    def work() -> bool:
        # A reply that another process asked for would be the answer to the wrong question.
        return all(
            store.complete(must_claim(store, mine), RESPONSE, retention=DAY)
            and claim(store, mine) == Completed(FINGERPRINT, RESPONSE)
            and isinstance(claim(store, record), InProgress)
            for mine in [new_record() for _ in range(50)]
        )

    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if work() else 1)
        children.append(pid)
    assert work()
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    assert store.complete(held, RESPONSE, retention=DAY) is True

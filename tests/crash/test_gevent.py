"""A process that gevent patches after the fork, as `gunicorn --preload` does: nothing made before may stop it."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import databases
from tests.stores.redis import servers

TIMEOUT = 60.0

SCRIPT = textwrap.dedent("""
    import os, signal, sys

    from flask_idempotency.engine.attempt import Attempt
    from flask_idempotency.engine.engine import End, Engine
    from flask_idempotency.engine.policy import Policy
    from flask_idempotency.stores import open_store

    engine = Engine(open_store(sys.argv[1]))
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    from gevent import monkey
    monkey.patch_all()
    import gevent

    signal.alarm(20)  # a process that stands still for ever ends by it

    def request(number):
        # Each lease is shorter than those before it, and hastens the heartbeat.
        policy, digest = Policy(lease=30.0 / (number + 1)), bytes(16)
        attempt = engine.begin(
            key=str(number), principal=digest, fingerprint=digest, request_fingerprint=digest, policy=policy
        )
        assert isinstance(attempt, Attempt), attempt
        return engine.release(attempt)

    requests = [gevent.spawn(request, number) for number in range(16)]
    gevent.joinall(requests, raise_error=True)
    assert all(each.value is End.WRITTEN for each in requests)
    os._exit(0)  # as it was forked, it tidies nothing up
""")


@pytest.fixture(params=["sqlite", "valkey", "valkey cluster", "postgresql", "mariadb"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'idempotency.db'}"
    elif request.param == "valkey":
        server = servers.Server()
        with servers.running(server):
            yield server.url
    elif request.param == "valkey cluster":
        with servers.cluster() as nodes:
            yield servers.cluster_url(nodes)
    elif request.param == "postgresql":
        with databases.postgresql() as url:
            yield url
    else:
        with databases.mariadb() as url:
            yield url


def test_greenlets_that_claim_first_at_the_same_time_all_go_on(store_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, store_url], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stderr

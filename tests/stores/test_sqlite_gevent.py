"""Greenlets instead of threads: waiting must let the others run, and a `Timeout` may end it anywhere."""

from pathlib import Path

import pytest

from ..crash.sqlite_processes import run

pytest.importorskip("gevent")


def test_greenlets_that_were_timed_out_while_they_waited_hold_nobody_up(tmp_path: Path) -> None:
    seen = run(
        tmp_path / "idempotency.db",
        """
        from gevent import monkey; monkey.patch_all()
        import gevent, sqlite3
        store = SQLiteStore(path, busy_timeout=20.0)
        do(store, "before")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        fates = {}

        def impatient(name):
            try:
                with gevent.Timeout(0.1 if int(name) % 2 else 20):
                    do(store, name)
                fates[name] = "done"
            except gevent.Timeout:
                fates[name] = "timed out"

        greenlets = [gevent.spawn(impatient, str(number)) for number in range(40)]
        while len(fates) < 20:
            gevent.sleep(0.01)
        other.execute("ROLLBACK")
        gevent.joinall(greenlets, timeout=20)
        do(store, "afterwards")
        print(sorted(set(fates[str(number)] for number in range(0, 40, 2))), end=" ")
        print(sorted(set(fates[str(number)] for number in range(1, 40, 2))), end=" ")
        print(all(isinstance(claim(store, str(number)), Completed) for number in range(0, 40, 2)))
        """,
    )
    assert seen == "['done'] ['timed out'] True"


def test_a_store_made_before_the_patch_does_not_block_the_hub(tmp_path: Path) -> None:
    """As under `gunicorn --preload`: its locks are real ones, and greenlets that wait must not hold them."""
    path = tmp_path / "idempotency.db"
    seen = run(
        path,
        """
        store = SQLiteStore(path, busy_timeout=20.0)
        from flask_idempotency.engine.attempt import Attempt
        from flask_idempotency.engine.heartbeat import heartbeat
        from flask_idempotency.engine.policy import Policy
        attempt = Attempt(
            store, Claim(record("held"), FINGERPRINT, b"t" * 16), Policy(lease=0.3),
            principal=b"p" * 16, request_fingerprint=FINGERPRINT, number=1, lapsed=False,
        )
        from gevent import monkey; monkey.patch_all()
        import gevent, sqlite3
        other = sqlite3.connect(path, isolation_level=None)
        # As long as the file is made by another, it is locked even to readers.
        other.execute("BEGIN EXCLUSIVE")
        ticks = []

        def tick():
            while True:
                ticks.append(1)
                gevent.sleep(0.005)

        gevent.spawn(tick)
        greenlets = [gevent.spawn(do, store, str(number)) for number in range(20)]
        heartbeat.watch(attempt)
        while len(ticks) < 40:
            gevent.sleep(0.01)
        other.execute("COMMIT")
        gevent.joinall(greenlets, timeout=20, raise_error=True)
        print(sum(greenlet.successful() for greenlet in greenlets))
        """,
    )
    assert seen == "20"

"""A process that has used the store forks, as `gunicorn --preload` does."""

import os
from pathlib import Path

import pytest

from ..crash.sqlite_processes import run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def test_a_child_works_however_busy_its_parents_threads_were(tmp_path: Path) -> None:
    """At the fork, threads hold the store's locks and SQLite's own; a child that inherited one would wait for ever."""
    seen = run(
        tmp_path / "idempotency.db",
        """
        store = SQLiteStore(path, durable=False)
        stop = False

        def busy(thread):
            number = 0
            while not stop:
                do(store, f"{thread}-{number}")
                number += 1

        threads = [threading.Thread(target=busy, args=(thread,)) for thread in range(6)]
        for thread in threads:
            thread.start()
        fates = []
        for number in range(40):
            child = os.fork()
            if not child:
                signal.alarm(20)
                do(store, f"child-{number}")
                os._exit(0)
            fates.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        stop = True
        for thread in threads:
            thread.join()
        kept = [isinstance(claim(store, f"child-{number}"), Completed) for number in range(40)]
        print(set(fates), all(kept))
        """,
        timeout=120,
    )
    assert seen == "{0} True"


def test_what_a_child_writes_outlives_the_end_of_its_parent_and_of_its_siblings(tmp_path: Path) -> None:
    """The last to close the file takes SQLite's log away. A child that holds none of its own locks is not seen, and
    would go on writing into a log that is gone."""
    seen = run(
        tmp_path / "idempotency.db",
        """
        store = SQLiteStore(path)
        do(store, "parent")
        begin, let_begin = os.pipe()
        done, report = os.pipe()
        child = os.fork()
        if not child:
            signal.alarm(20)
            do(store, "child, early")
            os.write(report, b"1")
            os.read(begin, 1)
            do(store, "child, late")
            os.write(report, b"2")
            signal.pause()
        os.read(done, 1)
        store.close()
        sibling = os.fork()
        if not sibling:
            do(store, "sibling")
            store.close()
            os._exit(0)
        os.waitpid(sibling, 0)
        os.write(let_begin, b"x")
        os.read(done, 1)
        import subprocess
        other = "from flask_idempotency.stores import SQLiteStore; SQLiteStore(%r).purge(limit=1)" % path
        subprocess.run([sys.executable, "-c", other], check=True)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for name in ("parent", "child, early", "sibling", "child, late"):
            print(name, type(claim(store, name)).__name__)
        """,
    )
    assert seen.splitlines() == [
        "parent Completed",
        "child, early Completed",
        "sibling Completed",
        "child, late Completed",
    ]


def test_parent_and_child_exclude_each_other(tmp_path: Path) -> None:
    seen = run(
        tmp_path / "idempotency.db",
        """
        store = SQLiteStore(path, durable=False)
        do(store, "before")
        children = []
        for _ in range(4):
            child = os.fork()
            if not child:
                signal.alarm(60)
                claimed = bytearray()
                for number in range(300):
                    claimed.append(isinstance(claim(store, str(number)), Claimed))
                Path(f"{path}.{os.getpid()}").write_bytes(claimed)
                os._exit(0)
            children.append(child)
        assert {os.waitpid(child, 0)[1] for child in children} == {0}
        claimed = [Path(f"{path}.{child}").read_bytes() for child in children]
        print({sum(each) for each in zip(*claimed)})
        """,
    )
    assert seen == "{1}"


def test_a_fork_waits_for_what_is_in_the_middle_of_a_transaction(tmp_path: Path) -> None:
    """A child that inherits a write transaction would find the file locked for ever, by nobody."""
    seen = run(
        tmp_path / "idempotency.db",
        """
        from flask_idempotency.stores.sqlite_file import Write
        store = SQLiteStore(path, busy_timeout=5.0)
        do(store, "before")
        writing = threading.Event()
        run_write = Write.run

        def slowly(write, connection):
            run_write(write, connection)
            writing.set()
            time.sleep(0.3)

        Write.run = slowly
        claims = [Claim(record(str(number)), FINGERPRINT, b"t" * 16) for number in range(2)]
        renewing = threading.Thread(target=store.renew, args=(claims,), kwargs={"lease": 1})
        renewing.start()
        assert writing.wait(20)
        child = os.fork()
        Write.run = run_write
        if not child:
            signal.alarm(20)
            do(store, "child")
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        renewing.join()
        print(type(claim(store, "child")).__name__)
        """,
    )
    assert seen.splitlines() == ["0", "Completed"]

"""What can be wrong with the file, and that it costs a 503, never an answer and never a second run."""

import os
import shutil
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_idempotency import Idempotency, Policy
from flask_idempotency.engine.records import Claimed, Completed, RecordKey, StoredResponse
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import SQLiteStore

from ..crash.sqlite_processes import run, start
from .usual import BRIEF, FINGERPRINT, USUAL

TIMEOUT = 20.0


class Till:
    """An app whose one handler counts its runs, and may do something in the middle of them."""

    def __init__(self, path: Path) -> None:
        self.runs = 0
        self.meanwhile: Callable[[], object] = lambda: None
        self.store = SQLiteStore(path, busy_timeout=1.0)
        app = Flask(__name__)
        app.testing = True
        Idempotency(app, store=self.store, policy=Policy(lease=60.0))

        @app.post("/pay")
        def pay() -> tuple[dict[str, int], int]:
            self.runs += 1
            self.meanwhile()
            return {"run": self.runs}, 201

        self.client: FlaskClient = app.test_client()

    def pay(self, key: str) -> TestResponse:
        return self.client.post("/pay", json={"amount": 1}, headers={"Idempotency-Key": key})


def assert_unavailable(response: TestResponse) -> None:
    problem = response.get_json(force=True)
    assert response.status_code == 503
    assert response.content_type == "application/problem+json"
    assert problem["type"].endswith("store-unavailable")
    assert int(response.headers["Retry-After"]) > 0


def assert_paid(response: TestResponse, run: int, *, replayed: bool) -> None:
    assert (response.status_code, response.get_json()) == (201, {"run": run})
    assert ("Idempotent-Replayed" in response.headers) is replayed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "idempotency.db"


def siblings(path: Path) -> list[Path]:
    return [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]


def corrupt(path: Path) -> None:
    path.write_bytes(b"This is no database. " * 1000)


def newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE idempotency_schema (version INTEGER NOT NULL)")
    connection.execute("INSERT INTO idempotency_schema VALUES (4)")
    connection.commit()
    connection.close()


def a_directory(path: Path) -> None:
    path.mkdir()


def a_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere" / "at all")


@pytest.mark.parametrize("trouble", [corrupt, newer, a_directory, a_dangling_link])
def test_a_file_that_cannot_be_used_is_a_503_until_it_is_mended(path: Path, trouble: Callable[[Path], None]) -> None:
    trouble(path)
    till = Till(path)
    for _ in range(2):
        assert_unavailable(till.pay("one"))
    assert till.runs == 0
    path.rmdir() if path.is_dir() else path.unlink()
    assert_paid(till.pay("one"), 1, replayed=False)
    assert_paid(till.pay("one"), 1, replayed=True)


def test_a_file_of_a_newer_library_is_left_as_it_is(path: Path) -> None:
    newer(path)
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match="layout 4 of another version"):
        SQLiteStore(path).claim(RecordKey(b"r" * 16), FINGERPRINT, **BRIEF)
    assert path.read_bytes() == before
    assert [sibling.name for sibling in path.parent.iterdir()] == [path.name]


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    till = Till(tmp_path / "of" / "many" / "folders" / "idempotency.db")
    assert_paid(till.pay("one"), 1, replayed=False)


def test_a_file_in_the_place_of_the_folder_is_a_503_until_it_is_mended(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    till = Till(tmp_path / "folder" / "idempotency.db")
    assert_unavailable(till.pay("one"))
    (tmp_path / "folder").unlink()
    assert_paid(till.pay("one"), 1, replayed=False)


def test_the_files_are_for_the_applications_own_user_only(path: Path) -> None:
    Till(path).pay("one")
    modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()}
    assert set(modes) >= {sibling.name for sibling in siblings(path)}
    assert set(modes.values()) == {0o600}


def remove(path: Path) -> None:
    for sibling in siblings(path):
        sibling.unlink(missing_ok=True)


def remove_main_file_only(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    other = path.with_name("other.db")
    store = SQLiteStore(other)
    store.purge(limit=1)
    store.close()
    remove(path)
    other.rename(path)


@pytest.mark.parametrize("change", [remove, remove_main_file_only, replace])
def test_a_file_that_was_removed_or_replaced_is_begun_anew_and_shared_with_others(
    path: Path, change: Callable[[Path], None]
) -> None:
    till = Till(path)
    assert_paid(till.pay("before"), 1, replayed=False)
    change(path)
    assert_paid(till.pay("after"), 2, replayed=False)
    other = Till(path)
    assert_paid(other.pay("after"), 2, replayed=True)
    assert_paid(other.pay("another"), 1, replayed=False)
    assert_paid(till.pay("another"), 1, replayed=True)


@pytest.mark.parametrize("change", [remove, remove_main_file_only, replace])
def test_two_processes_whose_file_was_removed_go_on_together_in_a_new_one(
    path: Path, change: Callable[[Path], None]
) -> None:
    tills = [Till(path), Till(path)]
    for number, till in enumerate(tills):
        assert_paid(till.pay(f"before-{number}"), 1, replayed=False)
    change(path)
    paid: dict[str, Any] = {}
    for number in range(40):
        # Troubled for a moment, maybe: but what was answered is kept, and both know of it.
        response = tills[number % 2].pay(str(number))
        if response.status_code == 201:
            paid[str(number)] = response.get_json()
        else:
            assert_unavailable(response)
    assert len(paid) >= 30
    for till in [*tills, Till(path)]:
        for key, answer in paid.items():
            replay = till.pay(key)
            assert (replay.get_json(), "Idempotent-Replayed" in replay.headers) == (answer, True)


def test_a_file_damaged_while_in_use_is_a_503_until_it_is_mended(path: Path) -> None:
    till = Till(path)
    till.pay("one")
    till.store.close()
    backup = path.with_name("backup.db")
    shutil.copy(path, backup)
    corrupt(path)
    assert_unavailable(till.pay("two"))
    assert_unavailable(till.pay("one"))
    shutil.copy(backup, path)
    assert_paid(till.pay("one"), 1, replayed=True)
    assert_paid(till.pay("two"), 2, replayed=False)


def test_a_file_locked_for_good_is_a_503_and_a_finished_answer_is_written_once_it_can_be(path: Path) -> None:
    till = Till(path)
    till.pay("before")
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    assert_unavailable(till.pay("one"))
    locker.execute("ROLLBACK")
    till.meanwhile = lambda: locker.execute("BEGIN IMMEDIATE")
    # The client hears its answer although nobody could write it down yet.
    assert_paid(till.pay("one"), 2, replayed=False)
    assert till.pay("one").status_code in (409, 503)
    locker.execute("ROLLBACK")
    locker.close()
    assert_replayed_in_the_end(till, "one", 2)


def assert_replayed_in_the_end(till: Till, key: str, run: int) -> None:
    ends = time.monotonic() + TIMEOUT
    response = till.pay(key)
    while response.status_code in (409, 503):
        assert time.monotonic() < ends
        time.sleep(0.02)
        response = till.pay(key)
    assert_paid(response, run, replayed=True)
    assert till.runs == run


def test_what_a_store_closed_by_one_thread_loses_for_the_others_is_nothing(path: Path) -> None:
    store = SQLiteStore(path)
    stop = threading.Event()

    def close() -> None:
        while not stop.is_set():
            store.close()

    closing = threading.Thread(target=close)
    closing.start()
    try:
        for number in range(25):
            record = RecordKey.of(b"p" * 16, str(number))
            outcome = store.claim(record, FINGERPRINT, **USUAL)
            assert isinstance(outcome, Claimed)
            answer = StoredResponse("200 OK", (), b"")
            assert store.complete(outcome.claim, answer, retention=60.0)
            assert store.claim(record, FINGERPRINT, **BRIEF) == Completed(FINGERPRINT, answer)
    finally:
        stop.set()
        closing.join()


def test_a_second_store_on_the_file_does_not_drop_the_locks_of_the_first(path: Path) -> None:
    """POSIX: to close any handle on a file drops all locks that the process has on it. SQLite knows, and so must we."""
    first, second = SQLiteStore(path), SQLiteStore(path)
    first.purge(limit=1)
    second.purge(limit=1)
    second.close()
    # If the locks were gone, this process would think itself the last, and take the log away under us.
    run(path, "SQLiteStore(path).purge(limit=1)")
    record = RecordKey.of(b"p" * 16, "k")
    outcome = first.claim(record, FINGERPRINT, **USUAL)
    assert isinstance(outcome, Claimed)
    assert run(path, "print(type(claim(SQLiteStore(path), 'k')).__name__)") == "InProgress"


APP = """
from flask import Flask
from flask_idempotency import Idempotency, Policy

runs = 0
meanwhile = lambda: None
store = SQLiteStore(path, busy_timeout=1.0)
app = Flask("till")
Idempotency(app, store=store, policy=Policy(lease=60.0))

@app.post("/pay")
def pay():
    global runs
    runs += 1
    meanwhile()
    return {"run": runs}, 201

def paid(key):
    response = app.test_client().post("/pay", json={"amount": 1}, headers={"Idempotency-Key": key})
    known = response.get_json(force=True)
    replayed = " replayed" if "Idempotent-Replayed" in response.headers else ""
    return f"{response.status_code} {known.get('run') or known['type'].rsplit('#')[-1]}{replayed}"

def in_the_end(key):
    ends = time.monotonic() + 20
    while (seen := paid(key))[:3] in ("409", "503") and time.monotonic() < ends:
        time.sleep(0.02)
    return seen
"""

#: Room runs out for this process, at the first byte that a file would grow by.
NO_ROOM_FOR_THIS_PROCESS = """
import resource

def fill():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

def make_room():
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""

#: The file system itself is full.
NO_ROOM_AT_ALL = """
ballast = path + ".ballast"

def fill():
    for size in (65536, 4096, 1):
        try:
            with open(ballast, "ab", buffering=0) as file:
                while True:
                    file.write(b"x" * size)
        except OSError:
            pass

def make_room():
    os.unlink(ballast)
"""


@pytest.fixture(params=["for this process", "at all"])
def no_room(request: pytest.FixtureRequest, path: Path) -> Iterator[str]:
    """Code with `fill` and `make_room`."""
    if request.param == "for this process":
        pytest.importorskip("resource")
        yield NO_ROOM_FOR_THIS_PROCESS
        return
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(path.parent)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield NO_ROOM_AT_ALL
    subprocess.run(["umount", "--lazy", str(path.parent)], check=True)


def as_nobody(path: Path) -> str:
    """Code that drops the rights of root, to whom no file is closed."""
    if os.getuid() != 0:
        return ""
    path.parent.chmod(0o755)
    for parent in path.parents:
        if not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    return "app.test_client().get('/warm up')\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"


def test_a_full_disk_at_the_claim_is_a_503_and_nothing_runs_until_there_is_room(path: Path, no_room: str) -> None:
    seen = run(
        path,
        APP
        + no_room
        + """
print(paid("before"))
fill()
print(paid("one"), paid("one"), runs)
print(paid("before"))
make_room()
print(paid("one"), paid("one"), runs)
""",
    )
    assert seen.splitlines() == [
        "201 1",
        "503 store-unavailable 503 store-unavailable 1",
        "201 1 replayed",
        "201 2 201 2 replayed 2",
    ]


def test_a_disk_that_fills_while_the_handler_runs_costs_neither_the_answer_nor_a_second_run(
    path: Path, no_room: str
) -> None:
    seen = run(
        path,
        APP
        + no_room
        + """
print(paid("before"))
meanwhile = fill
print(paid("one"))
time.sleep(1.0)
print(paid("one")[:3] in ("409", "503"), runs)
make_room()
print(in_the_end("one"), runs)
print(type(claim(SQLiteStore(path), "other")).__name__)
""",
    )
    assert seen.splitlines() == ["201 1", "201 2", "True 2", "201 2 replayed 2", "Claimed"]


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="this system has no users of this kind")
def test_a_file_that_may_only_be_read_is_a_503_until_it_may_be_written(path: Path) -> None:
    SQLiteStore(path).purge(limit=1)
    path.chmod(0o444)
    drop_rights = as_nobody(path)
    path.parent.chmod(0o777)
    go = path.with_name("mended")
    process = start(
        path,
        APP
        + drop_rights
        + f"""
print(paid("one"), paid("one"), runs, flush=True)
while not os.path.exists({str(go)!r}):
    time.sleep(0.01)
print(in_the_end("one"), runs)
""",
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    path.chmod(0o666)
    for sibling in siblings(path)[1:]:
        sibling.unlink(missing_ok=True)
    go.touch()
    out, err = process.communicate(timeout=60)
    assert (first, out) == ("503 store-unavailable 503 store-unavailable 0\n", "201 1 1\n"), err


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="this system has no users of this kind")
def test_a_folder_that_may_not_be_written_is_a_503(path: Path) -> None:
    drop_rights = as_nobody(path)
    path.parent.chmod(0o555)
    try:
        seen = run(path, APP + drop_rights + 'print(paid("one"), runs)')
    finally:
        path.parent.chmod(0o755)
    assert seen == "503 store-unavailable 0"

"""Where the file is, whatever it is called, and what is left open."""

import gc
import os
from contextlib import suppress
from pathlib import Path

import pytest

from flask_idempotency.engine.records import Claimed, InProgress, RecordKey
from flask_idempotency.stores import SQLiteStore

from ..crash.sqlite_processes import run
from .usual import FINGERPRINT, USUAL

RECORD = RecordKey(b"r" * 16)


def test_a_relative_path_means_the_folder_in_which_the_store_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("idempotency.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert isinstance(store.claim(RECORD, FINGERPRINT, **USUAL), Claimed)
    assert (tmp_path / "idempotency.db").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["with space.db", "ünïcödé.db", "what?mode=memory#.db", "100%41.db", "a;b&c=d.db"])
def test_a_name_is_a_name_whatever_it_would_mean_in_an_address(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert isinstance(SQLiteStore(path).claim(RECORD, FINGERPRINT, **USUAL), Claimed)
    assert path.exists()
    assert {found.name for found in tmp_path.iterdir()} <= {name, f"{name}-wal", f"{name}-shm", f"{name}-turn"}
    assert isinstance(SQLiteStore(path).claim(RECORD, FINGERPRINT, **USUAL), InProgress)


@pytest.mark.parametrize("path", ["", "."])
def test_a_path_that_names_no_file_is_refused_where_it_is_written(path: str) -> None:
    with pytest.raises(ValueError, match="path of a file"):
        SQLiteStore(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_temporary_file_goes_with_its_store_and_not_with_a_child_of_its_process(tmp_path: Path) -> None:
    seen = run(
        tmp_path / "unused.db",
        """
        store = SQLiteStore(":memory:")
        do(store, "before")
        if not os.fork():
            do(store, "in the child")
            sys.exit()
        os.wait()
        print(type(claim(store, "before")).__name__, type(claim(store, "in the child")).__name__)
        folder = store._file.path.parent
        del store
        import gc
        gc.collect()
        print(folder.exists())
        """,
    )
    assert seen.splitlines() == ["Completed Completed", "False"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not show open files")
def test_stores_that_are_no_longer_used_leave_no_file_open(tmp_path: Path) -> None:
    def open_files() -> list[str]:
        gc.collect()
        files = []
        for descriptor in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # the one that listed them is closed by now
                files.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return [file for file in files if file.startswith(str(tmp_path))]

    for number in range(20):
        store = SQLiteStore(tmp_path / f"{number}.db")
        store.claim(RECORD, FINGERPRINT, **USUAL)
        store.close()
        del store
    assert open_files() == []

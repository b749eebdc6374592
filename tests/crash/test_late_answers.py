"""Answers that could not be written when they were given: in hand until they are, and nothing runs twice meanwhile."""

from pathlib import Path

import pytest

from ..crash.sqlite_processes import run
from ..stores.test_sqlite_faults import APP, NO_ROOM_FOR_THIS_PROCESS


@pytest.mark.parametrize("on_store_error", ["refuse", "run"])
def test_a_disk_that_stays_full_past_the_lease_costs_no_second_run(tmp_path: Path, on_store_error: str) -> None:
    pytest.importorskip("resource")
    app = APP.replace("Policy(lease=60.0)", f"Policy(lease=1.0, on_store_error={on_store_error!r})")
    seen = run(
        tmp_path / "idempotency.db",
        app
        + NO_ROOM_FOR_THIS_PROCESS
        + """
print(paid("before"))
meanwhile = fill
print(paid("one"))
meanwhile = lambda: None
time.sleep(1.7)
print(paid("one"), runs)
make_room()
print(in_the_end("one"), runs)
""",
    )
    assert seen.splitlines() == ["201 1", "201 2", "409 request-in-progress 2", "201 2 replayed 2"]

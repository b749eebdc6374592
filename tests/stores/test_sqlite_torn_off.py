"""A thread that is torn off in the middle of a call takes nobody with it, and holds no fork up."""

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flask_idempotency.engine.records import Claim, RecordKey
from flask_idempotency.stores import SQLiteStore, group_commit, sqlite_connections, sqlite_file

from .torn_off import torn_off
from .usual import FINGERPRINT, USUAL, claimed

MODULES = (sqlite_file, sqlite_connections, group_commit)
TIMEOUT = 20.0

ACTS: dict[str, Callable[[SQLiteStore, Claim], object]] = {
    "a claim": lambda store, claim: store.claim(RecordKey(b"new".ljust(16)), FINGERPRINT, **USUAL),
    "a completion": lambda store, claim: store.complete(claim, None, retention=60.0),
    "a replay": lambda store, claim: store.claim(claim.record, FINGERPRINT, **USUAL),
    "a write of many statements": lambda store, claim: store.keep_step(claim, "charge", b"paid", retention=60.0),
}


def do_not_wait_for_ever(store: SQLiteStore, record: RecordKey) -> None:
    """Claim, complete and close in a thread of its own, which must come to its end."""

    def work() -> None:
        store.complete(claimed(store.claim(record, FINGERPRINT, **USUAL)), None, retention=60.0)
        store.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


@pytest.fixture
def little_garbage() -> Iterator[None]:
    """Leave what other tests have made out of the collections of this one: there are many."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("little_garbage")
@pytest.mark.parametrize("opened", [True, False], ids=["opened", "to be opened"])
@pytest.mark.parametrize("act", ACTS)
def test_whatever_a_thread_was_at_when_it_was_torn_off_the_others_go_on(tmp_path: Path, act: str, opened: bool) -> None:
    store = SQLiteStore(tmp_path / "idempotency.db", durable=False)
    moment, torn = 0, True
    while torn:
        claim = claimed(store.claim(RecordKey(b"%16d" % moment), FINGERPRINT, **USUAL))
        if not opened:
            store.close()
        torn = torn_off(lambda claim=claim: ACTS[act](store, claim), moment, *MODULES)  # type: ignore[misc]
        do_not_wait_for_ever(store, RecordKey(b"after %10d" % moment))
        gc.collect()
        assert not store._file._connections._known, f"at moment {moment} something is left for which a fork would wait"
        moment += 1
    assert moment >= 5, "there are more moments than that"

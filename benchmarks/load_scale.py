"""Under load: five million live records in one SQLite file, beside ten thousand."""

import multiprocessing
import secrets
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask_idempotency.engine.records import Claimed, Completed, RecordKey
from flask_idempotency.stores import SQLiteStore

from . import large_file
from .machine import resident_bytes
from .percentiles import milliseconds, percentile
from .results import Section, table

_FEW = 10_000
_BLOCK = 100

_TERMS: dict[str, Any] = {"lease": 30.0, "retention": 86_400.0, "take_over": True, "durable": False}


def run(folder: Path, *, quick: bool) -> Section:
    """Make both files, measure them in turn in one process of its own, and remove them."""
    many = 200_000 if quick else 5_000_000
    small, large = folder / "few.db", folder / "many.db"
    began = time.perf_counter()
    try:
        large_file.make(small, _FEW, expires_in=86_400)
        large_file.make(large, many, expires_in=86_400)
        built = time.perf_counter() - began
        per_record = (large.stat().st_size - small.stat().st_size) / (many - _FEW)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(_measure, (small, large, 5 if quick else 30))
    finally:
        for path in folder.glob("*.db*"):
            if path.name.startswith(("few.db", "many.db")):
                path.unlink()
    rows = []
    for what in ("claim", "completion", "replay"):
        few, more = (percentile(found[what, size], 0.5) for size in ("few", "many"))
        cold = percentile(found[what, "cold"], 0.5)
        rows.append((what, milliseconds(few), milliseconds(more), f"{more / few:.2f}", milliseconds(cold)))
    response = len(large_file.RESPONSE.pack())
    return Section(
        "Scale",
        (
            f"p50 in milliseconds of the durable SQLite store, without an application around it, with {_FEW:,} and "
            f"with {many:,} live records, measured in turn. To reach: at most 1.3 times. *Cold*: after the system has "
            "dropped the file from its memory, each record read for the first time.",
            "",
            *table(("", f"{_FEW:,}", f"{many:,}", "times", f"{many:,}, cold"), rows),
            "",
            f"{per_record:.0f} bytes a record, of which {response} are the kept response. The process grew by "
            f"{found['grew'] / 2**20:.1f} MiB over {found['served']:,} requests on the large file, and has "
            f"{found['resident'] / 2**20:.0f} MiB in all. (Making the files took {built:.0f} s.)",
        ),
    )


def _measure(small: Path, large: Path, blocks: int) -> dict[Any, Any]:
    stores = {"few": SQLiteStore(small), "many": SQLiteStore(large)}
    found: dict[Any, Any] = {
        (what, size): [] for what in ("claim", "completion", "replay") for size in ("few", "many", "cold")
    }
    ids = {"few": large_file.some_ids(small, 2000), "many": large_file.some_ids(large, _BLOCK * blocks * 2)}
    large_file.evict(large)
    for what, seconds in _requests(stores["many"], ids["many"][:_BLOCK]):
        found[what, "cold"].append(seconds)
    _read_in(large)
    for store, size in ((stores["few"], "few"), (stores["many"], "many")):  # warm-up, as many as are measured
        for _ in _requests(store, ids[size][: _BLOCK * blocks]):
            pass
    before = resident_bytes()
    for block in range(blocks):
        for size, store in stores.items():
            wanted = [ids[size][(block * _BLOCK + number) % len(ids[size])] for number in range(_BLOCK)]
            for what, seconds in _requests(store, wanted):
                found[what, size].append(seconds)
    found["grew"], found["resident"] = resident_bytes() - before, resident_bytes()
    found["served"] = 2 * _BLOCK * blocks
    for store in stores.values():
        store.close()
    return found


def _read_in(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def _requests(store: SQLiteStore, known: list[bytes]) -> Iterator[tuple[str, float]]:
    """A fresh request and a replay for each of these ids, and the seconds that each step took."""
    for identity in known:
        fresh = RecordKey(secrets.token_bytes(16), str(uuid.uuid4()), "POST", "/orders")
        began = time.perf_counter()
        outcome = store.claim(fresh, b"f" * 16, **_TERMS)
        claimed = time.perf_counter()
        assert isinstance(outcome, Claimed)
        assert store.complete(outcome.claim, large_file.RESPONSE, retention=86_400)
        completed = time.perf_counter()
        replay = store.claim(RecordKey(identity), b"f" * 16, **_TERMS)
        replayed = time.perf_counter()
        assert isinstance(replay, Completed)
        yield "claim", claimed - began
        yield "completion", completed - claimed
        yield "replay", replayed - completed

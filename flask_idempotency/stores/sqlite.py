"""Records in one SQLite file: every thread and every process of one machine."""

import os
import secrets
import shutil
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import mkdtemp

from ..engine import clock
from ..engine.records import Claim, Claimed, Completed, InProgress, RecordKey, StoredResponse
from ..engine.store import kept_response
from .sqlite_file import Row, SQLiteFile, Write
from .sqlite_schema import first_place, free_place, next_place

_READ = "SELECT fingerprint, lease_ends, expires_at, response FROM idempotency_records WHERE id = ?"

# Each decision is one statement. Its parameters are numbered, and those that are moments are reckoned when it runs: a
# lease reckoned from before the wait for the lock could be over before it began.

# Where no record stands. A record that another has made since we looked stays as it is.
_CLAIM = f"""
INSERT INTO idempotency_records (place, id, fingerprint, token, number, lease_ends, expires_at)
VALUES ({free_place("?1")}, ?2, ?3, ?4, 1, ?5, ?6)
ON CONFLICT DO NOTHING
"""

# Where a record stands that is over, or a claim that lapsed: ?7 is now, ?8 whether a lapsed one may be taken over. It
# stays as it is, and nothing is returned, unless it still is so.
_CLAIM_AGAIN = f"""
UPDATE idempotency_records SET
    place = {free_place("?1")},
    number = CASE WHEN expires_at <= ?7 THEN 1 ELSE number + 1 END,
    fingerprint = ?3, token = ?4, lease_ends = ?5, expires_at = ?6, response = NULL
WHERE id = ?2 AND (expires_at <= ?7 OR (?8 AND lease_ends <= ?7 AND fingerprint = ?3))
RETURNING number
"""

# A tombstone that comes late never replaces the response. The record keeps its place, where that is before ?5: it is
# unless the record expires sooner than its claim foresaw.
_COMPLETE = """
UPDATE idempotency_records SET lease_ends = NULL, expires_at = ?3, response = coalesce(?4, response)
WHERE id = ?1 AND token = ?2 AND place < ?5
"""

_COMPLETE_SOONER = f"""
UPDATE idempotency_records
SET lease_ends = NULL, expires_at = ?3, response = coalesce(?4, response), place = {free_place("?5")}
WHERE id = ?1 AND token = ?2
"""

_RELEASE = "DELETE FROM idempotency_records WHERE id = ? AND token = ? AND lease_ends IS NOT NULL"

_RENEW = """
UPDATE idempotency_records SET lease_ends = ?3, expires_at = max(expires_at, ?3)
WHERE id = ?1 AND token = ?2 AND lease_ends IS NOT NULL
"""

# Those that may be over, the oldest first.
_DUE = "SELECT place, expires_at FROM idempotency_records WHERE place < ? ORDER BY place LIMIT ?"

_PURGE = "DELETE FROM idempotency_records WHERE place <= ? AND expires_at <= ?"

# Of those that were due, one that lives longer than its claim foresaw.
_MOVE_BACK = f"UPDATE idempotency_records SET place = {free_place('?2')} WHERE place = ?1 AND expires_at = ?3"

#: How many records a purge takes in one transaction, and for how many times as long as that took it pauses before the
#: next: so that others wait neither long nor often.
_PURGED_AT_ONCE, _PAUSE = 32, 2


class SQLiteStore:
    """Records in the SQLite file at `path`, made on first use. The embedded default.

    `durable`: a completed answer survives power loss, at the cost of one wait for the disk per request
    (`synchronous=FULL` at completion). False gives that up: after a power loss or a crash of the operating system,
    not of the process, the newest answers may be gone, and a retry runs their requests again.

    A `path` of `:memory:` stands for a temporary file that goes with the store, for tests.

    `busy_timeout`: seconds a write waits for other processes before `StoreUnavailable`.
    """

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = True, busy_timeout: float = 10.0) -> None:
        if os.fspath(path) in ("", "."):
            raise ValueError("SQLiteStore needs the path of a file.")
        if os.fspath(path) == ":memory:":
            # A database in SQLite's memory belongs to one connection, and every thread here has its own.
            folder = mkdtemp(prefix="idempotency-")
            weakref.finalize(self, _remove, folder, os.getpid())
            path, durable = Path(folder, "records.db"), False
        self._file = SQLiteFile(Path(path).absolute(), durable=durable, busy_timeout=busy_timeout)

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self._file.path)!r})"

    def claim(
        self, record: RecordKey, fingerprint: bytes, *, lease: float, retention: float, take_over: bool = True
    ) -> Claimed | InProgress | Completed:
        """See `Store.claim`."""
        while True:
            found = self._file.read(_READ, (record.id,))
            standing = _standing(found, fingerprint, take_over)
            if standing is not None:
                return standing
            token = secrets.token_bytes(16)

            def values(now: float) -> Row:
                place, lease_ends = first_place(now + retention), now + lease
                made = (place, record.id, fingerprint, token, lease_ends, now + max(lease, retention))  # noqa: B023
                return (*made, now, take_over) if found else made  # noqa: B023

            write = Write(_CLAIM_AGAIN if found else _CLAIM, values)
            self._file.write(write, durable=not take_over)
            if write.changed:
                number = write.rows[0][0] if found else 1
                return Claimed(Claim(record.id, token), lapsed=number > 1, number=number)
            # It is not as it was when we looked: look again.

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """See `Store.complete`."""
        packed = None if response is None else response.pack()

        def values(now: float, place: Callable[[float], int] = next_place) -> Row:
            expires_at = now + retention
            return claim.record_id, claim.token, expires_at, packed, place(expires_at)

        write = Write(_COMPLETE, values)
        self._file.write(write, durable=True)
        if not write.changed:
            write = Write(_COMPLETE_SOONER, lambda now: values(now, first_place))
            self._file.write(write, durable=True)
        return write.changed > 0

    def release(self, claim: Claim) -> bool:
        """See `Store.release`."""
        write = Write(_RELEASE, lambda now: (claim.record_id, claim.token))
        self._file.write(write, durable=False)
        return write.changed > 0

    def renew(self, claims: Iterable[Claim], *, lease: float) -> None:
        """See `Store.renew`."""
        writes = [_renewal(claim, lease) for claim in claims]
        if writes:
            self._file.write(*writes, durable=False)

    def purge(self, *, limit: int) -> int:
        """See `Store.purge`."""
        purged = looked_at = 0
        began = time.monotonic()
        # Until one was found to purge, however many live longer than their place says: 0 means that none is left.
        while looked_at < limit or not purged:
            if looked_at:
                time.sleep(_PAUSE * (time.monotonic() - began))
                began = time.monotonic()
            now = clock.now()
            due = self._file.read(_DUE, (next_place(now), min(limit - purged, _PURGED_AT_ONCE)))
            if not due:
                break
            purge = _purge(due[-1][0], now)
            moved = [_move_back(place, ends, now) for place, ends in due if ends > now]
            self._file.write(purge, *moved, durable=False, scattered=True)
            purged += purge.changed
            looked_at += len(due)
        return purged

    def close(self) -> None:
        """See `Store.close`."""
        self._file.close()


def _standing(found: Sequence[Row], fingerprint: bytes, take_over: bool) -> InProgress | Completed | None:
    """What stands in the way of a claim; None where nothing does."""
    if not found:
        return None
    found_fingerprint, lease_ends, expires_at, response = found[0]
    now = clock.now()
    if expires_at <= now:
        return None
    if lease_ends is None:
        return Completed(found_fingerprint, kept_response(response))
    lapsed = lease_ends <= now
    if lapsed and take_over and found_fingerprint == fingerprint:
        return None
    return InProgress(found_fingerprint, lease_ends, lapsed)


def _renewal(claim: Claim, lease: float) -> Write:
    return Write(_RENEW, lambda now: (claim.record_id, claim.token, now + lease))


def _purge(last: int, over: float) -> Write:
    return Write(_PURGE, lambda now: (last, over))


def _move_back(place: int, expires_at: float, over: float) -> Write:
    # Past what is due now, or the same sweep would find it again.
    new = max(first_place(expires_at), next_place(over))
    return Write(_MOVE_BACK, lambda now: (place, new, expires_at))


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child that ends takes nothing from its parent
        shutil.rmtree(folder, ignore_errors=True)

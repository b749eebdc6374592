"""Records in one SQLite file: every thread and every process of one machine."""

import os
import secrets
import shutil
import weakref
from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp

from ..engine import clock
from ..engine.records import Claim, Claimed, Completed, InProgress, RecordKey, StoredResponse
from ..engine.store import StoreUnavailable
from .sqlite_file import SQLiteFile, Write

_READ = "SELECT fingerprint, lease_ends, expires_at, response FROM idempotency_records WHERE id = ?"

# In each of these `:now` is the moment when the statement runs, however long it waited for its turn: a lease reckoned
# from before the wait could be over before it began.

# The whole decision in one statement: a record that is neither free nor lapsed with the same fingerprint stays as it
# is, and nothing is returned.
_CLAIM = """
INSERT INTO idempotency_records AS found (id, fingerprint, token, number, lease_ends, expires_at)
VALUES (:id, :fingerprint, :token, 1, :now + :lease, :now + max(:lease, :retention))
ON CONFLICT (id) DO UPDATE SET
    number = CASE WHEN found.expires_at <= :now THEN 1 ELSE found.number + 1 END,
    fingerprint = excluded.fingerprint, token = excluded.token, response = NULL,
    lease_ends = excluded.lease_ends, expires_at = excluded.expires_at
WHERE found.expires_at <= :now
    OR (:take_over AND found.lease_ends <= :now AND found.fingerprint = excluded.fingerprint)
RETURNING number
"""

# A tombstone that comes late never replaces the response.
_COMPLETE = """
UPDATE idempotency_records
SET lease_ends = NULL, expires_at = :now + :retention, response = coalesce(:response, response)
WHERE id = :id AND token = :token
RETURNING 1
"""

_RELEASE = """
DELETE FROM idempotency_records WHERE id = :id AND token = :token AND lease_ends IS NOT NULL RETURNING 1
"""

_RENEW = """
UPDATE idempotency_records SET lease_ends = :now + :lease, expires_at = max(expires_at, :now + :lease)
WHERE id = :id AND token = :token AND lease_ends IS NOT NULL
RETURNING 1
"""

_PURGE = """
DELETE FROM idempotency_records WHERE rowid IN (
    SELECT rowid FROM idempotency_records WHERE expires_at <= :now ORDER BY expires_at LIMIT :limit
) RETURNING 1
"""


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
            standing = self._read(record, fingerprint, take_over)
            if standing is not None:
                return standing
            token = secrets.token_bytes(16)
            rows = self._file.write(
                _CLAIM,
                durable=not take_over,
                id=record.id,
                fingerprint=fingerprint,
                token=token,
                lease=lease,
                retention=retention,
                take_over=take_over,
            )
            if rows:
                number = rows[0][0]
                return Claimed(Claim(record.id, token), lapsed=number > 1, number=number)
            # Another claimed it since we looked: look again.

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """See `Store.complete`."""
        return bool(
            self._file.write(
                _COMPLETE,
                durable=True,
                id=claim.record_id,
                token=claim.token,
                retention=retention,
                response=response and response.pack(),
            )
        )

    def release(self, claim: Claim) -> bool:
        """See `Store.release`."""
        return bool(self._file.write(_RELEASE, durable=False, id=claim.record_id, token=claim.token))

    def renew(self, claims: Iterable[Claim], *, lease: float) -> None:
        """See `Store.renew`."""
        self._file.write_all(
            [
                Write(_RENEW, {"id": claim.record_id, "token": claim.token, "lease": lease}, durable=False)
                for claim in claims
            ]
        )

    def purge(self, *, limit: int) -> int:
        """See `Store.purge`."""
        return len(self._file.write(_PURGE, durable=False, limit=limit))

    def close(self) -> None:
        """See `Store.close`."""
        self._file.close()

    def _read(self, record: RecordKey, fingerprint: bytes, take_over: bool) -> InProgress | Completed | None:
        """What stands in the way of a claim; None where nothing does. Takes no lock, and makes nobody wait."""
        rows = self._file.select(_READ, record.id)
        if not rows:
            return None
        found_fingerprint, lease_ends, expires_at, response = rows[0]
        now = clock.now()
        if expires_at <= now:
            return None
        if lease_ends is None:
            return Completed(found_fingerprint, _unpack(response))
        lapsed = lease_ends <= now
        if lapsed and take_over and found_fingerprint == fingerprint:
            return None
        return InProgress(found_fingerprint, lease_ends, lapsed)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child that ends takes nothing from its parent
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(response: bytes | None) -> StoredResponse | None:
    if response is None:
        return None
    try:
        return StoredResponse.unpack(response)
    except ValueError as error:
        raise StoreUnavailable("a kept response cannot be read") from error

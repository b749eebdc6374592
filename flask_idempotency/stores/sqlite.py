"""Records in one SQLite file: every thread and every process of one machine."""

import os
import shutil
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from math import inf
from pathlib import Path
from tempfile import mkdtemp

from ..engine import clock
from ..engine.records import Claim, Claimed, Completed, InProgress, Lapsed, RecordKey, Standing, StoredResponse
from ..engine.store import kept_response
from . import sqlite_statements as sql
from .sqlite_connections import Row
from .sqlite_file import SQLiteFile, Write
from .sqlite_schema import any_place, next_place
from .states import ABANDONED, ANSWERING, CLAIMED, COMPLETED, LOST_RETENTION, RELEASED
from .tokens import new_token

#: What is where in a row of `READ`.
_STATE, _NUMBER, _EXPIRES_AT = 1, 2, 5

#: For each parameter that is bytes, `sqlite3` looks in vain for an adapter, which costs as much as the read of a row.
_blob = bytearray

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

    @property
    def sqlite_path(self) -> str:
        """The SQLite file that the records are in: it has one writer."""
        return str(self._file.path)

    def claim(
        self,
        record: RecordKey,
        fingerprint: bytes,
        *,
        lease: float,
        retention: float,
        take_over: bool,
        durable: bool,
    ) -> Standing:
        """See `Store.claim`. Without `take_over` a claim is always durable."""
        while True:
            found = self._file.first(sql.READ, (_blob(record.id),))
            if found is not None:
                now = clock.now()
                if found[_STATE] == COMPLETED and found[_EXPIRES_AT] > now:
                    return Completed(found[0], kept_response(found[-1]))
                standing = self._standing(found, record.id, fingerprint, now, take_over)
                if standing is not None:
                    return standing
            durable = durable or not take_over
            life = max(lease, retention) if take_over else inf
            claim = Claim(record, fingerprint, new_token())
            row = _new(claim, lease=lease, retention=retention, life=life)
            if found is None:
                number = self._file.change(sql.INSERT, row, durable=durable)
                lapsed = False
            elif found[_EXPIRES_AT] <= now:
                number = self._insert_anew(record.id, row, durable=durable)
                lapsed = False
            else:
                number, lapsed = found[_NUMBER] + 1, found[_STATE] == CLAIMED
                if not self._file.change(sql.CLAIM_AGAIN, _again(row, found), durable=durable):
                    number = 0
            if number:
                return Claimed(claim, number, lapsed)
            # It is not as it was when we looked: look again.

    def answering(self, claim: Claim, *, lease: float) -> bool:
        """See `Store.answering`. Survives power loss when it returns: the client is about to hear the answer."""

        def values(now: float) -> Row:
            return *_mine(claim), now + lease

        return self._settle(claim, sql.ANSWERING_NOW, values) or self._stands(claim, COMPLETED)

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """See `Store.complete`."""
        packed = None if response is None else _blob(response.pack())
        record_id, token = _mine(claim)

        def values(now: float) -> Row:
            return record_id, token, now + retention, packed

        return self._settle(claim, sql.COMPLETE, values)

    def release(self, claim: Claim, *, retention: float) -> bool:
        """See `Store.release`."""
        if self._file.change(sql.RELEASE, lambda now: (*_mine(claim), now, now + retention), durable=False):
            return True
        return self._gone(claim.record.id)

    def abandon(self, claim: Claim) -> bool:
        """See `Store.abandon`."""

        def values(now: float) -> Row:
            return *_mine(claim), now

        return self._settle(claim, sql.ABANDON, values) or self._stands(claim, ANSWERING, COMPLETED)

    def resolve(self, record_id: bytes, *, done: bool, retention: float) -> bool:
        """See `Store.resolve`. Survives power loss when it returns."""
        state = COMPLETED if done else RELEASED
        forget_marks = Write(sql.FORGET_MARKS, lambda now: (record_id, now))
        resolve = Write(sql.RESOLVE, lambda now: (record_id, now, state, now + retention))
        self._file.write(forget_marks, resolve, durable=True)
        return resolve.changed > 0

    def renew(self, claims: Collection[Claim], *, lease: float) -> set[Claim]:
        """See `Store.renew`."""
        renewals = {claim: _renewal(claim, lease) for claim in claims}
        if renewals:
            self._file.write(*renewals.values(), durable=False)
        return {claim for claim, renewal in renewals.items() if not renewal.changed and self._fenced(claim)}

    def load_steps(self, claim: Claim) -> Mapping[str, bytes | None]:
        """See `Store.load_steps`."""
        return dict(self._file.read(sql.STEPS, (claim.record.id,)))

    def keep_step(self, claim: Claim, name: str, result: bytes | None, *, retention: float) -> bool:
        """See `Store.keep_step`."""
        keep = Write(sql.KEEP_STEP, lambda now: (*_mine(claim), name, result))
        prolong = Write(sql.PROLONG, lambda now: (*_mine(claim), now + retention))
        self._file.write(keep, prolong, durable=True)
        return prolong.changed > 0

    def drop_step(self, claim: Claim, name: str) -> bool:
        """See `Store.drop_step`."""
        if self._file.change(sql.DROP_STEP, lambda now: (*_mine(claim), name), durable=False):
            return True
        return self._file.first(sql.HELD, _mine(claim)) is not None

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
            due = self._file.read(sql.DUE, (next_place(now), min(limit - purged, _PURGED_AT_ONCE)))
            if not due:
                break
            purge = _purge(due[-1][0], now)
            moved = [_move_back(place, ends, kept, now) for place, ends, kept in due if ends > now]
            self._file.write(purge, *moved, durable=False, scattered=True)
            purged += purge.changed
            looked_at += len(due)
        return purged

    def close(self) -> None:
        """See `Store.close`."""
        self._file.close()

    def _standing(
        self, found: Row, record_id: bytes, fingerprint: bytes, now: float, take_over: bool
    ) -> Standing | None:
        """What stands in the way of a claim, where the record is not completed; None where nothing does."""
        kept_fingerprint, state, _, started, lease_ends, expires_at, _ = found
        if expires_at <= now:
            return None
        if state == RELEASED:
            other = kept_fingerprint != fingerprint
            bound = other and self._file.first(sql.HAS_RESULTS, (record_id,)) is not None
            return Lapsed(kept_fingerprint) if bound else None
        if state == ABANDONED:
            return Lapsed(kept_fingerprint)
        if lease_ends > now:
            return InProgress(kept_fingerprint, started, lease_ends)
        if state == ANSWERING:
            return Completed(kept_fingerprint, None)
        return None if take_over and kept_fingerprint == fingerprint else Lapsed(kept_fingerprint)

    def _settle(self, claim: Claim, statement: str, values: Callable[[float], Row]) -> bool:
        """Change the record of this claim, made anew where it is gone altogether or over; False where it is fenced."""
        if self._file.change(statement, values, durable=True):
            return True
        row = _new(claim, lease=0.0, retention=LOST_RETENTION, life=LOST_RETENTION)
        change = Write(statement, values)
        self._insert_anew(claim.record.id, row, change, durable=True)
        return change.changed > 0

    def _insert_anew(self, record_id: bytes, row: Callable[[float], Row], *more: Write, durable: bool) -> int:
        """1 where no record stood that is not over, and 0 where one does."""
        forget, insert = Write(sql.FORGET, lambda now: (record_id, now)), Write(sql.INSERT, row)
        self._file.write(forget, insert, *more, durable=durable)
        return insert.changed

    def _gone(self, record_id: bytes) -> bool:
        holder = self._file.first(sql.HOLDER, (record_id,))
        return holder is None or holder[2] <= clock.now()

    def _stands(self, claim: Claim, *states: int) -> bool:
        """Whether the record is this claim's, and in one of these states."""
        holder = self._file.first(sql.HOLDER, (claim.record.id,))
        return holder is not None and holder[0] == claim.token and holder[1] in states

    def _fenced(self, claim: Claim) -> bool:
        holder = self._file.first(sql.HOLDER, (claim.record.id,))
        return holder is not None and holder[0] != claim.token and holder[2] > clock.now()


def _new(claim: Claim, *, lease: float, retention: float, life: float) -> Callable[[float], Row]:
    """What `INSERT` makes of a claim: a record that lives for `life`, which may be without end."""
    record, record_id = claim.record, _blob(claim.record.id)
    fingerprint, token = _blob(claim.fingerprint), _blob(claim.token)
    looked_at = max(lease, retention)  # after so many seconds, to see whether it is over

    def row(now: float) -> Row:
        return (
            any_place(now + looked_at),
            record_id,
            fingerprint,
            token,
            now,
            now + lease,
            retention,
            now + life,
            record.key,
            record.method,
            record.path,
        )

    return row


def _again(new: Callable[[float], Row], found: Row) -> Callable[[float], Row]:
    """What `CLAIM_AGAIN` makes of a new record in the place of the one that was found."""
    _, seen_state, number, _, seen_lease_ends, seen_expires_at, _ = found

    def values(now: float) -> Row:
        place, record_id, fingerprint, token, started, lease_ends, retention, expires_at, key, method, path = new(now)
        made = (place, fingerprint, token, number, started, lease_ends, retention, expires_at, key, method, path)
        return (*made, record_id, seen_state, seen_lease_ends, seen_expires_at)

    return values


def _mine(claim: Claim) -> tuple[bytearray, bytearray]:
    return _blob(claim.record.id), _blob(claim.token)


def _renewal(claim: Claim, lease: float) -> Write:
    return Write(sql.RENEW, lambda now: (*_mine(claim), now + lease))


def _purge(last: int, over: float) -> Write:
    return Write(sql.PURGE, lambda now: (last, over))


def _move_back(place: int, expires_at: float, retention: float, over: float) -> Write:
    # Past what is due now, or the same sweep would find it again. What has no end is looked at again by and by.
    moment = min(expires_at, over + retention)
    return Write(sql.MOVE_BACK, lambda now: (place, max(any_place(moment), next_place(over)), expires_at))


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child that ends takes nothing from its parent
        shutil.rmtree(folder, ignore_errors=True)

"""Runs a view so that its rows and its answer commit together, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from sqlalchemy import Engine, MetaData
from sqlalchemy.exc import DBAPIError, IntegrityError

from ..engine.attempt import Attempt
from ..engine.records import StoredResponse
from ..engine.store import RecordUnreadable
from .at_rest import AtRest
from .joined import OuterTransaction, Sessions
from .proofs import Proof, Proofs, proof_table
from .tables import in_one_schema, make_table

if TYPE_CHECKING:
    from ..stores.cipher import Cipher

logger = logging.getLogger("flask_idempotency")

Answer = TypeVar("Answer")

#: How often a view is run again within one request, where its transaction met another's.
MAX_RERUNS = 3

# SQLSTATE of serialization failure and deadlock (PostgreSQL); error numbers of lock wait time-out, deadlock, and
# record changed (MariaDB, MySQL); primary result codes BUSY and LOCKED (SQLite).
_SQLSTATES = {"40001", "40P01"}
_ERROR_NUMBERS = {1205, 1213, 1020}
_SQLITE_CODES = {5, 6}


class TransactionConflict(Exception):
    """The transaction met another's and was undone. Nothing was done; the same request may be sent again."""


class DoneOrNot(Exception):
    """Whether the operation was done cannot be found out now. The claim must lapse, so that whoever comes next looks
    for the proof before anything runs."""


@dataclass(frozen=True, slots=True)
class Done(Generic[Answer]):
    """The view ran. `committed`: its rows and the proof stand; else everything was undone."""

    answer: Answer
    committed: bool


@dataclass(frozen=True, slots=True)
class DoneBefore:
    """Another attempt at the operation has committed; this one left no trace."""

    proof: Proof


class AtomicRunner:
    """Runs views of one database."""

    def __init__(self, sessions: Sessions, engine: Engine, proofs: Proofs) -> None:
        self._sessions = sessions
        self._engine = engine
        self._own_engine = in_one_schema(engine)
        self._proofs = proofs
        self._ready = False

    def run(
        self,
        attempt: Attempt,
        view: Callable[[], Answer],
        response_of: Callable[[Answer], tuple[bool, StoredResponse | None]],
        *,
        before_rerun: Callable[[], object],
    ) -> Done[Answer] | DoneBefore:
        """Run `view` in a transaction that commits with the proof of what it answered.

        `response_of` says of an answer whether it is kept, and what is (None: a tombstone). An answer that is not
        kept, and an exception, undo everything. Raises `TransactionConflict` where the policy does not run the view
        again, or has as often as it may; the driver's error where the database is lost and did not commit; `DoneOrNot`
        where it cannot say, or the proof is unreadable.
        """
        if self._sessions.registry.has():
            # What earlier hooks left uncommitted is not the work of the view, and a transaction that has begun cannot
            # become part of another. First: what follows takes a connection, and this may hold the pool's last.
            self._sessions.commit()
        self._make_ready(attempt)
        if attempt.lapsed and (proof := self._find(attempt)) is not None:
            return DoneBefore(proof)
        reruns = MAX_RERUNS if attempt.policy.on_conflict == "rerun" else 0
        while True:
            outer = OuterTransaction(self._sessions, self._engine)
            try:
                return self._run_once(outer, attempt, view, response_of)
            except DBAPIError as error:
                may_be_done = isinstance(error, IntegrityError) or (outer.commit_sent and error.connection_invalidated)
                if may_be_done and (proof := self._find(attempt)) is not None:
                    return DoneBefore(proof)
                # A savepoint that is gone is how the end of its transaction is heard of, too.
                if not _is_conflict(outer.undone_by or error):
                    raise
                if not reruns:
                    raise TransactionConflict from error
                reruns -= 1
                before_rerun()

    def _run_once(
        self,
        outer: OuterTransaction,
        attempt: Attempt,
        view: Callable[[], Answer],
        response_of: Callable[[Answer], tuple[bool, StoredResponse | None]],
    ) -> Done[Answer]:
        outer.begin()
        try:
            answer = view()
            kept, response = response_of(answer)
            if kept:
                if outer.undone_by is not None:  # and the view went on, without its earlier rows
                    raise outer.undone_by
                outer.leave()  # first: the proof must not be in a savepoint of theirs
                self._proofs.add(
                    outer.connection,
                    attempt.claim.record_id,
                    attempt.fingerprint,
                    response,
                    retention=attempt.policy.retention,
                )
        except BaseException:
            outer.roll_back()
            raise
        if kept:
            outer.commit()
            self._sweep()
        else:
            outer.roll_back()
        return Done(answer, committed=kept)

    def _find(self, attempt: Attempt) -> Proof | None:
        try:
            with self._own_engine.connect() as connection:
                return self._proofs.find(connection, attempt.claim.record_id)
        except RecordUnreadable as error:
            raise DoneOrNot(str(error)) from error
        except DBAPIError as error:
            raise DoneOrNot(_say(error)) from error

    def _sweep(self) -> None:
        try:
            with self._own_engine.begin() as connection:
                self._proofs.sweep(connection)
        except DBAPIError:
            logger.debug("Proofs could not be swept; the next request tries again.")

    def _make_ready(self, attempt: Attempt) -> None:
        """Make the table where the application's migrations have not."""
        if self._ready:
            return
        try:
            make_table(self._proofs.table, self._own_engine)
        except DBAPIError as error:
            if attempt.lapsed:  # its holder may have committed, and that could not be looked for
                raise DoneOrNot(_say(error)) from error
            raise
        self._ready = True


def runner_for(sessions: Sessions, engine: Engine, metadata: MetaData, cipher: Cipher | None) -> AtomicRunner:
    """A runner whose table of proofs is part of `metadata`; with `cipher`, encrypted."""
    return AtomicRunner(sessions, engine, Proofs(proof_table(metadata), AtRest(b"proof", cipher)))


def _say(error: DBAPIError) -> str:
    # The driver's own text may hold parameters: only its kind is told.
    return f"the database could not be asked ({type(error.orig).__name__})"


def _is_conflict(error: DBAPIError) -> bool:
    driver = error.orig
    state = getattr(driver, "sqlstate", None)
    number = driver.args[0] if driver is not None and driver.args else None
    code = getattr(driver, "sqlite_errorcode", None)
    return (
        state in _SQLSTATES
        or (isinstance(number, int) and number in _ERROR_NUMBERS)
        or (code is not None and code & 0xFF in _SQLITE_CODES)
    )

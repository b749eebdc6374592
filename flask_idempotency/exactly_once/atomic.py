"""Runs a view so that its rows and its answer commit together, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from sqlalchemy import Engine, MetaData
from sqlalchemy.exc import DBAPIError, IntegrityError

from ..engine.attempt import Attempt
from ..engine.records import StoredResponse
from ..engine.store import RecordUnreadable
from ..stores.sql_conflicts import is_conflict
from .at_rest import AtRest
from .joined import OuterTransaction, Sessions, apart
from .lock_wait import LockWait
from .proofs import HeldByOthers, Kind, Proof, Proofs, proof_table
from .tables import in_one_schema, make_table
from .unique_rows import WinnerHidden

if TYPE_CHECKING:
    from ..stores.cipher import Cipher

logger = logging.getLogger("flask_idempotency")

Answer = TypeVar("Answer")

#: How often a view is run again within one request, where its transaction met another's.
MAX_RERUNS = 3


class TransactionConflict(Exception):
    """The transaction met another's and was undone. Nothing was done; the same request may be sent again."""


class DoneOrNot(Exception):
    """Whether the operation was done cannot be found out now. The claim must lapse, so that whoever comes next looks
    for the proof before anything runs."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What becomes of an answer: its rows stand as *done*, with `response` kept, or as *released*; None undoes them."""

    kind: Kind | None
    response: StoredResponse | None = None


UNDONE = Ending(None)
RELEASED = Ending(Kind.RELEASED)


@dataclass(frozen=True, slots=True)
class Ran(Generic[Answer]):
    """The view ran, and ended so."""

    answer: Answer
    ending: Ending


@dataclass(frozen=True, slots=True)
class DoneBefore:
    """Another attempt at the operation has done it; this one left no trace."""

    proof: Proof


@dataclass(frozen=True, slots=True)
class Fenced:
    """Another attempt holds the operation, or has ended it without an answer; this one left no trace."""


class AtomicRunner:
    """Runs views of one database."""

    def __init__(self, sessions: Sessions, engine: Engine, proofs: Proofs, lock_wait: LockWait) -> None:
        self._sessions = sessions
        self._engine = engine
        self._own_engine = in_one_schema(engine)
        self._proofs = proofs
        self._lock_wait = lock_wait
        self._ready = False

    def run(
        self,
        attempt: Attempt,
        view: Callable[[], Answer],
        ending_of: Callable[[Answer], Ending],
        *,
        before_rerun: Callable[[], object],
    ) -> Ran[Answer] | DoneBefore | Fenced:
        """Run `view` in a transaction that commits with what `ending_of` says of its answer, or undo it.

        An exception undoes everything. Raises `TransactionConflict` where the policy does not run the view again, or
        has as often as it may; the driver's error where the database is lost and did not commit; `DoneOrNot` where it
        cannot say, or the proof is unreadable.
        """
        if self._sessions.registry.has():
            # What earlier hooks left uncommitted is not the work of the view, and a transaction that has begun cannot
            # become part of another. First: what follows takes a connection, and this may hold the pool's last.
            self._commit_for_hooks()
        with apart(self._sessions):
            return self._run(attempt, view, ending_of, before_rerun)

    def _run(
        self,
        attempt: Attempt,
        view: Callable[[], Answer],
        ending_of: Callable[[Answer], Ending],
        before_rerun: Callable[[], object],
    ) -> Ran[Answer] | DoneBefore | Fenced:
        self._make_ready(attempt)
        if attempt.number > 1:
            before = self._hold(attempt)
            if before is not None and before.kind is Kind.DONE:
                return DoneBefore(before)
            if before is not None and before.kind is Kind.RELEASED:
                attempt.lapsed = False  # whoever held the claim has ended what it did, and vanished only then
        reruns = MAX_RERUNS if attempt.policy.on_conflict == "rerun" else 0
        while True:
            outer = OuterTransaction(self._sessions, self._engine)
            try:
                return self._run_once(outer, attempt, view, ending_of)
            except (DBAPIError, WinnerHidden) as error:
                # A savepoint that is gone is how the end of its transaction is heard of, too.
                conflict = isinstance(error, WinnerHidden) or is_conflict(outer.undone_by or error)
                if conflict or isinstance(error, IntegrityError) or outer.commit_sent:
                    other = self._other_than(attempt)
                    if other is not None:
                        return other
                if not conflict:
                    raise
                if not reruns:
                    raise TransactionConflict from error
                reruns -= 1
                before_rerun()

    def _commit_for_hooks(self) -> None:
        try:
            self._sessions.commit()
        except DBAPIError as error:
            if is_conflict(error):  # the hooks cannot be run again from here, but the request can
                raise TransactionConflict from error
            raise

    def _run_once(
        self,
        outer: OuterTransaction,
        attempt: Attempt,
        view: Callable[[], Answer],
        ending_of: Callable[[Answer], Ending],
    ) -> Ran[Answer]:
        outer.begin()
        try:
            self._lock_wait.bound(outer.connection)
            answer = view()
            ending = ending_of(answer)
            outer.find_out_undoing()
            if ending.kind is not None:
                if outer.undone_by is not None:  # and the view went on, without its earlier rows
                    raise outer.undone_by
                outer.leave()  # first: the proof must not be in a savepoint of theirs
                self._proofs.end(
                    outer.connection,
                    attempt.claim,
                    ending.kind,
                    ending.response,
                    retention=attempt.policy.retention,
                    held=attempt.number > 1,
                )
        except BaseException:
            outer.find_out_undoing()
            outer.roll_back()
            raise
        if ending.kind is None:
            outer.roll_back()
            return Ran(answer, ending)
        try:
            outer.commit()
        except DBAPIError as error:
            if not (error.connection_invalidated and self._stands(attempt, ending.kind)):
                raise
        self._sweep()
        return Ran(answer, ending)

    def _stands(self, attempt: Attempt, kind: Kind) -> bool:
        """Whether a commit whose reply was lost was one."""
        proof = self._find(attempt)
        return proof is not None and (proof.kind, proof.token) == (kind, attempt.claim.token)

    def _other_than(self, attempt: Attempt) -> DoneBefore | Fenced | None:
        """What another attempt has made of the operation; None where it is this one's still."""
        proof = self._find(attempt)
        if proof is None:
            return None
        if proof.kind is Kind.DONE:
            return DoneBefore(proof)
        return None if proof.token == attempt.claim.token else Fenced()

    def _hold(self, attempt: Attempt) -> Proof | None:
        with _in_doubt():
            try:
                return self._proofs.hold(self._own_engine, attempt.claim, retention=attempt.policy.retention)
            except HeldByOthers as error:
                raise TransactionConflict from error
            except DBAPIError as error:
                if is_conflict(error):  # this attempt has not begun, and the next one looks again
                    raise TransactionConflict from error
                raise

    def _find(self, attempt: Attempt) -> Proof | None:
        with _in_doubt(), self._own_engine.connect() as connection:
            return self._proofs.find(connection, attempt.claim.record.id)

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
            if attempt.number > 1:  # an earlier one may have committed, and that could not be looked for
                raise DoneOrNot(_say(error)) from error
            raise
        self._ready = True


def runner_for(sessions: Sessions, engine: Engine, metadata: MetaData, cipher: Cipher | None) -> AtomicRunner:
    """A runner whose table of proofs is part of `metadata`; with `cipher`, encrypted."""
    lock_wait = LockWait()
    proofs = Proofs(proof_table(metadata), AtRest(b"proof", cipher), lock_wait)
    return AtomicRunner(sessions, engine, proofs, lock_wait)


@contextmanager
def _in_doubt() -> Iterator[None]:
    """What cannot be read leaves it open whether the operation was done."""
    try:
        yield
    except RecordUnreadable as error:
        raise DoneOrNot(str(error)) from error
    except DBAPIError as error:
        raise DoneOrNot(_say(error)) from error


def _say(error: DBAPIError) -> str:
    # The driver's own text may hold parameters: only its kind is told.
    return f"the database could not be asked ({type(error.orig).__name__})"

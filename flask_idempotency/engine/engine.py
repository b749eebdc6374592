"""Decides, for each request under a key, whether it runs, is replayed or is refused, and what its end leaves behind."""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from . import clock
from .attempt import Attempt, State
from .events import Event, Observer, Outcome
from .heartbeat import heartbeat
from .policy import Policy
from .records import Claimed, Completed, InProgress, RecordKey, StoredResponse
from .store import RecordUnreadable, Store, StoreUnavailable
from .waiting import FIRST_LOOK, LONGEST_LOOK, WaitingRoom

logger = logging.getLogger("flask_idempotency")

#: Every so many claims, up to twice as many expired records are swept: faster than they can come to be, and no
#: request pays for more.
_SWEEP_EVERY = 16

#: Seconds after which a client may ask again after a request in progress.
_SOON = 5

#: Seconds after which a client may try again when the store could not be reached.
_STORE_RETRY_AFTER = 5


class Refusal(StrEnum):
    """Why a request does not run and is not replayed."""

    REUSED = "idempotency-key-reused"
    IN_PROGRESS = "request-in-progress"
    OUTCOME_UNKNOWN = "outcome-unknown"
    NOT_KEPT = "response-not-kept"
    STORE_UNAVAILABLE = "store-unavailable"


_TOLD_AS = {refusal: Outcome(refusal.value) for refusal in Refusal}


@dataclass(frozen=True, slots=True)
class Run:
    """The handler runs, under this attempt; unprotected where it is None (the store failed and the policy says run)."""

    attempt: Attempt | None


@dataclass(frozen=True, slots=True)
class Replay:
    """The answer is this one, from the record."""

    response: StoredResponse


@dataclass(frozen=True, slots=True)
class Refuse:
    """The answer is a refusal; `retry_after` (whole seconds) where asking again may help."""

    refusal: Refusal
    retry_after: int | None = None


class Engine:
    """The decisions of one application over one store."""

    def __init__(self, store: Store, *, observers: Iterable[Observer] = ()) -> None:
        self.store = store
        self._observers = [(observer, getattr(observer, "hears", None)) for observer in observers]
        self._waiting = WaitingRoom()
        self._claims_since_sweep = 0

    def begin(
        self, *, key: str, principal: bytes, fingerprint: bytes, policy: Policy, may_wait: bool = False
    ) -> Run | Replay | Refuse:
        """Claim the operation that `principal` (a digest) named `key`, or say what stands there already.

        `may_wait`: whether the calling thread can be spared for as long as the policy lets a repeat wait.
        """
        record = RecordKey.of(principal, key)
        if heartbeat.owes:
            try:
                heartbeat.settle(record.id)
            except StoreUnavailable:
                # Whatever the policy says of a store out of reach: this process knows that the work is done.
                return self._refuse(Refusal.STORE_UNAVAILABLE, record, retry_after=_STORE_RETRY_AFTER)
        try:
            standing = self._claim(record, fingerprint, policy)
            if may_wait and policy.wait and isinstance(standing, InProgress):
                standing = self._wait(standing, record, fingerprint, policy)
        except StoreUnavailable as error:
            return self._without_store(record, policy, error)
        match standing:
            case Claimed():
                return Run(self._start(standing, key, principal, fingerprint, policy))
            case InProgress(other) | Completed(other) if other != fingerprint:
                return self._refuse(Refusal.REUSED, record)
            case InProgress(lapsed=True):
                return self._refuse(Refusal.OUTCOME_UNKNOWN, record)
            case InProgress(lease_ends=lease_ends):
                return self._refuse(Refusal.IN_PROGRESS, record, retry_after=_retry_after(lease_ends, policy.lease))
            case Completed(response=StoredResponse() as response):
                self.tell(Outcome.REPLAYED, record.id)
                return Replay(response)
            case Completed():
                return self._refuse(Refusal.NOT_KEPT, record)

    def complete(self, attempt: Attempt, response: StoredResponse | None) -> bool:
        """Keep the answer; False where the claim was fenced: the winner's answer counts, not this one.

        None leaves a tombstone. Where the store cannot be reached, the answer is kept as soon as it can, for as long
        as this process lives and renews its claim.
        """
        attempt.state = State.DONE
        outcome = Outcome.COMPLETED if response else Outcome.RESPONSE_DROPPED
        keep = partial(self.store.complete, attempt.claim, response, retention=attempt.policy.retention)
        return self._finish(attempt, keep, outcome)

    def begin_streaming(self, attempt: Attempt) -> bool:
        """Leave a tombstone before the first byte of a streamed response; False where the claim was fenced.

        `complete` follows once the response ended whole; else the tombstone stays.
        """
        leave = partial(self.store.complete, attempt.claim, None, retention=attempt.policy.retention)
        kept = self._finish(attempt, leave)
        attempt.state = State.STREAMING if kept else State.DONE
        return kept

    def release(self, attempt: Attempt) -> bool:
        """Give the key back, so that a retry runs afresh; False where the claim was fenced."""
        attempt.state = State.DONE
        return self._finish(attempt, partial(self.store.release, attempt.claim), Outcome.RELEASED)

    def abandon(self, attempt: Attempt) -> None:
        """Leave the claim to lapse: the handler was torn off, and nobody knows how far it came."""
        heartbeat.forget(attempt.claim)
        attempt.state = State.DONE
        self.tell(Outcome.ABANDONED, attempt.claim.record_id)

    def tell(self, outcome: Outcome, record_id: bytes | None = None, number: int | None = None) -> None:
        """Let the observers hear of it."""
        for observer, hears in self._observers:
            try:
                if hears is None or hears(outcome):
                    observer(Event(outcome, record_id, number))
            except Exception:  # an observer never decides over a request
                logger.exception("An observer failed on %s.", outcome)

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def _start(self, claimed: Claimed, key: str, principal: bytes, fingerprint: bytes, policy: Policy) -> Attempt:
        """Begin the attempt. Where that fails, the claim is given back: nobody would run under it."""
        claim, lapsed, number = claimed.claim, claimed.lapsed, claimed.number
        attempt = Attempt(self.store, key, claim, principal, fingerprint, policy, number=number, lapsed=lapsed)
        try:
            heartbeat.watch(self.store, claim, policy.lease)
            self.tell(Outcome.TAKEN_OVER if lapsed else Outcome.CLAIMED, claim.record_id, number)
            # Threads may race on this count; a sweep more or less does no harm.
            self._claims_since_sweep += 1
            if self._claims_since_sweep >= _SWEEP_EVERY:
                self._sweep()
        except BaseException:
            self.release(attempt)
            raise
        return attempt

    def _claim(self, record: RecordKey, fingerprint: bytes, policy: Policy) -> Claimed | InProgress | Completed:
        return self.store.claim(
            record,
            fingerprint,
            lease=policy.lease,
            retention=policy.retention,
            # An atomic attempt that died left nothing behind, or its proof: there is no unknown outcome to refuse.
            take_over=policy.atomic or policy.on_lapse == "rerun",
        )

    def _wait(
        self, standing: InProgress, record: RecordKey, fingerprint: bytes, policy: Policy
    ) -> Claimed | InProgress | Completed:
        """Look again until the first is done, the time is up, or no seat is free."""
        outcome: Claimed | InProgress | Completed = standing
        # The time slept is summed, not read from a clock that a test may have stopped.
        left, look = policy.wait, FIRST_LOOK
        with self._waiting.seat(record.id) as bell:
            while bell is not None and left > 0 and _worth_waiting(outcome, fingerprint):
                look = min(look, left)
                bell.wait(look)
                bell.clear()
                left -= look
                look = min(look * 2, LONGEST_LOOK)
                outcome = self._claim(record, fingerprint, policy)
        return outcome

    def _finish(self, attempt: Attempt, write: Callable[[], bool], outcome: Outcome | None = None) -> bool:
        """Write the end of an attempt, now or, where the store cannot be reached, later; False means fenced.

        `outcome` is what it is told as, once it is written.
        """
        claim = attempt.claim
        try:
            held = write()
        except StoreUnavailable as error:
            logger.warning("The end of a request could not be written, it is tried again: %s", error)
            late = Outcome.COMPLETED_LATE if outcome is not Outcome.RELEASED else outcome
            heartbeat.finish_later(
                self.store, claim, attempt.policy.lease, lambda: self._finish_late(attempt, write, late)
            )
            self.tell(Outcome.DEFERRED, claim.record_id, attempt.number)
            return True
        heartbeat.forget(claim)
        self._waiting.ring(claim.record_id)
        if not held:
            self.tell(Outcome.FENCED, claim.record_id, attempt.number)
        elif outcome is not None:
            self.tell(outcome, claim.record_id)
        return held

    def _finish_late(self, attempt: Attempt, write: Callable[[], bool], outcome: Outcome) -> None:
        held = write()
        self._waiting.ring(attempt.claim.record_id)
        self.tell(outcome if held else Outcome.FENCED, attempt.claim.record_id, attempt.number)

    def _without_store(self, record: RecordKey, policy: Policy, error: StoreUnavailable) -> Run | Refuse:
        logger.warning("The store could not be asked: %s", error)
        if policy.on_store_error == "run" and not isinstance(error, RecordUnreadable):
            self.tell(Outcome.UNPROTECTED, record.id)
            return Run(None)
        return self._refuse(Refusal.STORE_UNAVAILABLE, record, retry_after=_STORE_RETRY_AFTER)

    def _refuse(self, refusal: Refusal, record: RecordKey, retry_after: int | None = None) -> Refuse:
        self.tell(_TOLD_AS[refusal], record.id)
        return Refuse(refusal, retry_after)

    def _sweep(self) -> None:
        self._claims_since_sweep = 0
        try:
            self.store.purge(limit=2 * _SWEEP_EVERY)
        except StoreUnavailable as error:
            logger.warning("Expired records could not be swept: %s", error)
        except Exception:  # a sweep never decides over a request
            logger.exception("Expired records could not be swept.")


def _retry_after(lease_ends: float, lease: float) -> int:
    """Whole seconds after which asking again is worth it, of a holder that may be alive or dead.

    Soon, for one that may be done any moment; later, the longer it gave no sign of life; never past the end of its
    lease, when a dead one's claim is free.
    """
    left = lease_ends - clock.now()
    silent = lease - left
    return max(1, math.ceil(min(left, max(_SOON, silent))))


def _worth_waiting(standing: Claimed | InProgress | Completed, fingerprint: bytes) -> bool:
    return isinstance(standing, InProgress) and not standing.lapsed and standing.fingerprint == fingerprint

"""Decides, for each request under a key, whether it runs, is replayed or is refused, and what its end leaves behind."""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum

from . import clock
from .attempt import Attempt, State
from .digests import digest, start_digest
from .events import Event, Observer, Outcome
from .heartbeat import heartbeat
from .outages import outage_of
from .policy import Policy, PolicyError
from .records import Claimed, Completed, InProgress, Lapsed, RecordKey, Standing, StoredResponse
from .store import RecordUnreadable, Store, StoreUnavailable
from .waiting import FIRST_LOOK, LONGEST_LOOK, waiting_room

logger = logging.getLogger("flask_idempotency")

#: Every so many claims, up to twice as many expired records are swept: faster than they can come to be, and no
#: request pays for more.
_SWEEP_EVERY = 16

#: Seconds after which a client may try again when the store could not be reached.
STORE_RETRY_AFTER = 5

#: For each so many seconds that a handler has run, a client is asked to wait one more before it asks again.
_PATIENCE = 10

#: Of a lease, what is left at least while its holder renews it: a third passes between renewals, and some is for delay.
_LEFT_WHILE_ALIVE = 0.6


class Refusal(StrEnum):
    """Why a request does not run and is not replayed."""

    REUSED = "idempotency-key-reused"
    IN_PROGRESS = "request-in-progress"
    OUTCOME_UNKNOWN = "outcome-unknown"
    NOT_KEPT = "response-not-kept"
    STORE_UNAVAILABLE = "store-unavailable"


_TOLD_AS = {refusal: Outcome(refusal.value) for refusal in Refusal}


@dataclass(frozen=True, slots=True)
class Refuse:
    """The answer is a refusal; `retry_after` (whole seconds) where asking again may help."""

    refusal: Refusal
    record_id: bytes
    retry_after: int | None = None


class Unprotected(Enum):
    """The store could not be reached, and the policy says that the request runs nevertheless."""

    RUN = "run"


class End(Enum):
    """What became of the end of an attempt."""

    WRITTEN = "written"
    FENCED = "fenced"  # another attempt stands in its place, and that one's answer counts
    DEFERRED = "deferred"  # the store cannot be reached: it is written as soon as it can, while this process lives


class Engine:
    """The decisions of one application over one store. `namespace` names the application."""

    def __init__(self, store: Store, *, namespace: str = "", observers: Iterable[Observer] = ()) -> None:
        if isinstance(store, type) or not callable(getattr(store, "claim", None)):
            raise PolicyError(f"store must be a store, such as open_store(…) returns, not {store!r}.")
        if not isinstance(namespace, str):
            raise PolicyError(f"namespace must be a string, not {namespace!r}.")
        self.store = store
        self.namespace = digest(namespace.encode("utf-8", "surrogatepass"))
        self._named = start_digest(self.namespace)
        self._observers = [(observer, getattr(observer, "hears", None)) for observer in observers]
        self._outage = outage_of(store)
        self._claims_since_sweep = 0
        #: Whether a front end has looked at what server this is in, and whether the store fits it.
        self.placed = False

    def begin(
        self,
        *,
        key: str,
        principal: bytes,
        fingerprint: bytes,
        request_fingerprint: bytes,
        policy: Policy,
        method: str = "",
        path: str = "",
        may_wait: bool = False,
    ) -> Attempt | StoredResponse | Refuse | Unprotected:
        """Claim the operation that `principal` (a digest) named `key`, or say what stands there already.

        An `Attempt`: the handler runs, under it. A `StoredResponse`: the answer is this one, from the record.
        `request_fingerprint` is the fingerprint without what a session adds to it. `may_wait`: whether the calling
        thread can be spared for as long as the policy lets a repeat wait.
        """
        # As `RecordKey.of` has it.
        identity = self._named.copy()
        identity.update(principal + key.encode())
        record = RecordKey(identity.digest(), key, method, path)
        # Whatever the policy says of a store out of reach: this process knows what became of the work.
        if heartbeat.owed and (owing := heartbeat.settle(record.id)):
            if owing.claim.fingerprint != fingerprint:
                return self._refuse(Refusal.REUSED, record)
            return self._refuse(Refusal.IN_PROGRESS, record, retry_after=_patience(owing.age, policy.lease))
        try:
            standing = self._claim(record, fingerprint, policy)
            if may_wait and policy.wait and isinstance(standing, InProgress):
                standing = self._wait(standing, record, fingerprint, policy)
        except StoreUnavailable as error:
            return self._without_store(record, policy, error)
        if isinstance(standing, Claimed):
            return self._start(
                Attempt(
                    self.store,
                    standing.claim,
                    policy,
                    principal=principal,
                    request_fingerprint=request_fingerprint,
                    number=standing.number,
                    lapsed=standing.lapsed,
                )
            )
        if standing.fingerprint != fingerprint:
            return self._refuse(Refusal.REUSED, record)
        match standing:
            case Completed(response=StoredResponse() as response):
                self.tell(Outcome.REPLAYED, record.id)
                return response
            case Completed():
                return self._refuse(Refusal.NOT_KEPT, record)
            case InProgress():
                return self._refuse(Refusal.IN_PROGRESS, record, retry_after=_retry_after(standing, policy.lease))
            case Lapsed():
                return self._refuse(Refusal.OUTCOME_UNKNOWN, record)

    def answering(self, attempt: Attempt) -> End:
        """Say, before the first byte of a streamed response, that the handler has returned: it never runs again.

        `complete` follows once the response has ended, or `release` where it is not kept.
        """
        end = self._finish(attempt, lambda: self.store.answering(attempt.claim, lease=attempt.policy.lease))
        if end is not End.FENCED:
            attempt.state = State.ANSWERING
            if end is End.WRITTEN:
                heartbeat.watch(attempt)
        return end

    def complete(self, attempt: Attempt, response: StoredResponse | None) -> End:
        """Keep the answer; None leaves a tombstone."""
        attempt.state = State.DONE
        claim, retention = attempt.claim, attempt.policy.retention
        return self._finish(
            attempt,
            lambda: self.store.complete(claim, response, retention=retention),
            Outcome.COMPLETED if response else Outcome.RESPONSE_DROPPED,
        )

    def release(self, attempt: Attempt) -> End:
        """Give the key back, so that a retry runs afresh; after what its steps could not write, which it must find."""
        attempt.state = State.DONE
        claim, retention = attempt.claim, attempt.policy.retention
        return self._finish(
            attempt, lambda: attempt.pay() and self.store.release(claim, retention=retention), Outcome.RELEASED
        )

    def abandon(self, attempt: Attempt) -> End:
        """Leave the outcome unknown, until a person resolves it: the handler failed, and the policy refuses doubt."""
        attempt.state = State.DONE
        return self._finish(attempt, lambda: attempt.pay() and self.store.abandon(attempt.claim), Outcome.ABANDONED)

    def let_lapse(self, attempt: Attempt) -> None:
        """Renew the claim no longer: the handler was torn off, and nobody knows how far it came."""
        heartbeat.forget(attempt.claim)
        attempt.state = State.DONE
        self.tell(Outcome.LEFT_TO_LAPSE, attempt.claim.record.id, attempt.number)

    def fail(self, attempt: Attempt) -> End:
        """End an attempt whose handler failed, as the policy says."""
        return self.abandon(attempt) if attempt.policy.on_error == "refuse" else self.release(attempt)

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

    def _start(self, attempt: Attempt) -> Attempt:
        """Begin the attempt. Where that fails, the claim is given back: nobody would run under it."""
        try:
            heartbeat.watch(attempt)
            self.tell(
                Outcome.TAKEN_OVER if attempt.lapsed else Outcome.CLAIMED, attempt.claim.record.id, attempt.number
            )
            # Threads may race on this count; a sweep more or less does no harm.
            self._claims_since_sweep += 1
            if self._claims_since_sweep >= _SWEEP_EVERY:
                self._sweep()
        except BaseException:
            self.release(attempt)
            raise
        return attempt

    def _claim(self, record: RecordKey, fingerprint: bytes, policy: Policy) -> Standing:
        # An atomic attempt that died left nothing behind, or its proof: there is no unknown outcome to refuse.
        may_take_over = policy.on_lapse == "rerun" or policy.atomic
        outage = self._outage
        held_back = may_take_over and outage.seen and outage.holds_back()
        try:
            standing = self.store.claim(
                record,
                fingerprint,
                lease=policy.lease,
                retention=policy.retention,
                take_over=may_take_over and not held_back,
                durable=policy.durable_claims or not may_take_over,
            )
        except StoreUnavailable as error:
            if not isinstance(error, RecordUnreadable):
                outage.failed()
            raise
        if outage.seen and isinstance(standing, Claimed):
            outage.wrote(policy.lease)
        if held_back and isinstance(standing, Lapsed):
            # Whoever held it may have its answer in hand.
            outage.look_for_its_end(self.store, policy.lease)
            now = clock.now()
            return InProgress(standing.fingerprint, started=now, lease_ends=now + outage.calm_for())
        return standing

    def _wait(self, standing: InProgress, record: RecordKey, fingerprint: bytes, policy: Policy) -> Standing:
        """Look again until the first is done, the time is up, or no seat is free."""
        outcome: Standing = standing
        # The time slept is summed, not read from a clock that a test may have stopped.
        left, look = policy.wait, FIRST_LOOK
        with waiting_room.seat(record.id, seats=policy.max_waiters) as bell:
            while (
                bell is not None and left > 0 and isinstance(outcome, InProgress) and outcome.fingerprint == fingerprint
            ):
                look = min(look, left)
                bell.wait(look)
                bell.clear()
                left -= look
                look = min(look * 2, LONGEST_LOOK)
                try:
                    outcome = self._claim(record, fingerprint, policy)
                except StoreUnavailable as error:
                    # That it is in progress is known, whatever the policy says of a store out of reach.
                    logger.warning("The store could not be asked again: %s", error)
                    break
        return outcome

    def _finish(self, attempt: Attempt, write: Callable[[], bool], outcome: Outcome | None = None) -> End:
        """Write the end of an attempt, now or, where the store cannot be reached, later.

        `outcome` is what it is told as, once it is written.
        """
        try:
            held = write()
        except BaseException as error:  # noqa: BLE001 - raised again where it tears the request off
            return self._defer(attempt, write, outcome, error)
        claim = attempt.claim
        heartbeat.forget(claim)
        if waiting_room.bells:
            waiting_room.ring(claim.record.id)
        if not held:
            attempt.state = State.DONE
            self.tell(Outcome.FENCED, claim.record.id, attempt.number)
            return End.FENCED
        if outcome is not None:
            self.tell(outcome, claim.record.id, attempt.number)
        return End.WRITTEN

    def _defer(self, attempt: Attempt, write: Callable[[], bool], outcome: Outcome | None, error: BaseException) -> End:
        """Write it later: how the handler ended is known, and whether it was written is not."""
        if isinstance(error, StoreUnavailable):
            logger.warning("The end of a request could not be written, it is tried again: %s", error)
            self._outage.failed()
        else:
            logger.error("The end of a request could not be written, it is tried again.", exc_info=error)
        record_id = attempt.claim.record.id
        completion = outcome in (Outcome.COMPLETED, Outcome.RESPONSE_DROPPED)

        def finish() -> None:
            held = write()
            waiting_room.ring(record_id)
            if not held:
                self.tell(Outcome.FENCED, record_id, attempt.number)
            elif outcome is not None:
                self.tell(Outcome.COMPLETED_LATE if completion else outcome, record_id, attempt.number)

        heartbeat.finish_later(attempt, finish)
        self.tell(Outcome.DEFERRED, record_id, attempt.number)
        if not isinstance(error, Exception):  # torn off, as by a worker's time-out
            raise error
        return End.DEFERRED

    def _without_store(self, record: RecordKey, policy: Policy, error: StoreUnavailable) -> Unprotected | Refuse:
        logger.warning("The store could not be asked: %s", error)
        if policy.on_store_error == "run" and not isinstance(error, RecordUnreadable):
            self.tell(Outcome.UNPROTECTED, record.id)
            return Unprotected.RUN
        return self._refuse(Refusal.STORE_UNAVAILABLE, record, retry_after=STORE_RETRY_AFTER)

    def _refuse(self, refusal: Refusal, record: RecordKey, retry_after: int | None = None) -> Refuse:
        self.tell(_TOLD_AS[refusal], record.id)
        return Refuse(refusal, record.id, retry_after)

    def _sweep(self) -> None:
        self._claims_since_sweep = 0
        try:
            self.store.purge(limit=2 * _SWEEP_EVERY)
        except StoreUnavailable as error:
            logger.warning("Expired records could not be swept: %s", error)
        except Exception:  # a sweep never decides over a request
            logger.exception("Expired records could not be swept.")


def _retry_after(held: InProgress, lease: float) -> int:
    """Whole seconds after which asking again is worth it: soon while the holder lives, else at the end of its lease.

    A holder that lives renews its claim at a third of the lease; one that should have, and has not, is probably dead.
    """
    now = clock.now()
    left = held.lease_ends - now
    if left < lease * _LEFT_WHILE_ALIVE:
        return max(1, math.ceil(left))
    return _patience(now - held.started, lease)


def _patience(age: float, lease: float) -> int:
    """Whole seconds after which to ask again for what has been in progress so long, and still is."""
    return 1 + min(int(max(0.0, age)) // _PATIENCE, int(lease / 3))

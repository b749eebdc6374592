"""Keeps the claims of living handlers from lapsing, however long the handlers take."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter

from .attempt import Attempt, State
from .forks import call_in_child
from .outages import outage_of
from .process_lock import ProcessLock
from .records import Claim
from .store import StoreUnavailable

logger = logging.getLogger("flask_idempotency")

#: How often the store is asked again, in seconds, once it could not renew a claim or keep an answer. Short: once it is
#: back, another process may take over what has lapsed meanwhile.
_RETRY_EVERY = 0.2

#: How long it sleeps when this process holds no claim, in seconds: a third of the usual lease, so that the usual claim
#: does not wake it.
_IDLE = 10.0


@dataclass(slots=True)
class _Debt:
    attempt: Attempt
    finish: Callable[[], object]
    #: Whoever takes the one thing in it calls `finish`, and puts it back where that failed.
    baton: list[None] = field(default_factory=lambda: [None])
    failed_at: float = 0.0  # by the monotonic clock; 0 before it was tried


class Heartbeat:
    """One thread per process that renews all running claims, in one batch per store, at a third of their lease.

    The thread starts with the first claim of the process. A forked child begins with none of its parent's claims: a
    dead process stops renewing, and that is how others learn that it died.
    """

    def __init__(self) -> None:
        self._starting = ProcessLock()
        self._forget_everything()
        call_in_child(self._forget_everything)

    def _forget_everything(self) -> None:
        self._beats: dict[bytes, Attempt] = {}
        #: The ends of requests that no store could take yet, by their tokens.
        self.owed: dict[bytes, _Debt] = {}
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()
        self._pause = float("inf")
        self._renewals_fail = False

    def __len__(self) -> int:
        """How many claims this process holds now."""
        return len(self._beats)

    def watch(self, attempt: Attempt) -> None:
        """Keep renewing the claim of `attempt` until it is forgotten."""
        self._beats[attempt.claim.token] = attempt
        # Only a shorter lease than any before it disturbs the sleeping thread; the usual request never does.
        if attempt.policy.lease / 3 < self._pause:
            self._wake_within(attempt.policy.lease / 3)

    def forget(self, claim: Claim) -> None:
        """Stop renewing `claim`; what it still owed is settled."""
        self._beats.pop(claim.token, None)
        if self.owed:
            self.owed.pop(claim.token, None)

    def finish_later(self, attempt: Attempt, finish: Callable[[], object]) -> None:
        """Go on renewing the claim and call `finish` until it does not raise `StoreUnavailable`."""
        token = attempt.claim.token
        self.owed[token] = _Debt(attempt, finish)
        self._beats[token] = attempt
        self._wake_within(min(_RETRY_EVERY, attempt.policy.lease / 3))

    def settle(self, record_id: bytes) -> Attempt | None:
        """Write now what is owed for this record; the attempt whose end cannot be written yet, where that is so.

        A claim must not be taken over, however long ago it lapsed, while this process knows that its work is done.
        """
        for debt in list(self.owed.values()):
            if debt.attempt.claim.record.id == record_id and not self._pay(debt):
                return debt.attempt
        return None

    def _wake_within(self, seconds: float) -> None:
        if seconds >= self._pause:
            return
        with self._starting:
            if self._thread is None:
                if _in_uwsgi_without_threads():
                    logger.warning(
                        "uWSGI runs without threads, so claims are not renewed: a handler that takes longer than its "
                        "lease may be run twice. Start uWSGI with --enable-threads."
                    )
                thread = threading.Thread(target=self._run, name="idempotency-heartbeat", daemon=True)
                thread.start()  # where it cannot be, the next claim tries again
                self._thread = thread
            self._pause = min(seconds, self._pause)
            self._hurry.set()

    def _run(self) -> None:
        while True:
            self._hurry.wait(min(self._pause, threading.TIMEOUT_MAX))
            self._hurry.clear()
            try:
                self._tick()
            except Exception:  # the thread must outlive whatever happens
                logger.exception("The heartbeat missed a beat; it tries again.")

    def _tick(self) -> None:
        with self._starting:
            before, self._pause = self._pause, float("inf")
            # Looked at after that: a claim that comes too late for this look finds its lease shorter, and wakes us.
            beats = list(self._beats.values())
            # With nothing to renew, a haste that is over ends; a claim with a shorter lease wakes us again.
            self._pause = min((beat.policy.lease / 3 for beat in beats), default=max(before, _IDLE))
            if self.owed:
                self._pause = min(self._pause, _RETRY_EVERY)
            pause = self._pause
        now = time.monotonic()
        due: dict[tuple[int, float], list[Attempt]] = {}
        for beat in beats:
            policy = beat.policy
            if self._hangs(beat):
                self._beats.pop(beat.claim.token, None)  # left to lapse
                logger.warning("A handler has run for longer than max_run; its claim is renewed no more.")
            # Due now, if by the next tick it would be older than a third of its lease.
            elif now + pause - beat.renewed_at >= policy.lease / 3:
                due.setdefault((id(beat.store), policy.lease), []).append(beat)
        renewed = [self._renew(group, lease, now) for (_, lease), group in due.items()]
        self._renewals_fail = not all(renewed)
        if self._renewals_fail:
            with self._starting:
                self._pause = min(self._pause, _RETRY_EVERY)
        unreachable: set[int] = set()
        # What has failed comes last, so that what a store will never take keeps nothing else waiting.
        for debt in sorted(self.owed.values(), key=attrgetter("failed_at")):
            # A store that is out of reach may take its time to say so, and others' claims wait meanwhile.
            store = id(debt.attempt.store)
            if store not in unreachable and not self._pay(debt):
                unreachable.add(store)
                debt.failed_at = time.monotonic()

    def _hangs(self, attempt: Attempt) -> bool:
        # A handler that has returned does not, however long its response streams.
        longest, running = attempt.policy.max_run, attempt.state is State.RUNNING
        return longest is not None and attempt.age >= longest and running and not self._owes_for(attempt)

    def _owes_for(self, attempt: Attempt) -> bool:
        return attempt.claim.token in self.owed

    def _renew(self, beats: list[Attempt], lease: float, now: float) -> bool:
        store = beats[0].store
        try:
            fenced = store.renew([beat.claim for beat in beats], lease=lease)
        except StoreUnavailable as error:
            outage_of(store).failed()
            if not self._renewals_fail:  # said once, however often it is tried
                logger.warning("Claims cannot be renewed, it is tried again and again: %s", error)
            return False
        except Exception:  # one store's defect must not let the claims of others lapse
            if not self._renewals_fail:
                logger.exception("%d claims could not be renewed, it is tried again and again.", len(beats))
            return False
        outage_of(store).wrote(lease)
        for beat in beats:
            beat.renewed_at = now
            if beat.claim in fenced:
                self._beats.pop(beat.claim.token, None)  # its end will hear that it is
        return True

    def _pay(self, debt: _Debt) -> bool:
        """Write what is owed; False where it is owed still, or another thread is at it."""
        try:
            debt.baton.pop()
        except IndexError:
            return False
        try:
            debt.finish()
        except StoreUnavailable:
            debt.baton.append(None)
            return False
        except BaseException as error:
            debt.baton.append(None)
            if not isinstance(error, Exception):
                raise
            if not debt.failed_at:
                logger.exception("The end of a request could not be written, it is tried again and again.")
            return False
        # A stream that has ended meanwhile may owe its whole answer, after the tombstone that was written now.
        if self.owed.get(debt.attempt.claim.token) is debt:
            self.owed.pop(debt.attempt.claim.token, None)
            if debt.attempt.state is State.DONE:
                self.forget(debt.attempt.claim)
        return True


def _in_uwsgi_without_threads() -> bool:
    options = getattr(sys.modules.get("uwsgi"), "opt", None)
    if options is None:
        return False
    return not {"enable-threads", "threads"} & {name.decode() if isinstance(name, bytes) else name for name in options}


#: The heartbeat of this process.
heartbeat = Heartbeat()

"""Keeps the claims of living handlers from lapsing, however long the handlers take."""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .records import Claim
from .store import Store, StoreUnavailable

logger = logging.getLogger("flask_idempotency")

#: How often an answer that could not be kept is offered to the store again, in seconds.
_RETRY_EVERY = 0.5


@dataclass(slots=True)
class _Beat:
    store: Store
    claim: Claim
    lease: float
    renewed_at: float
    unfinished: Callable[[], object] | None = None


class Heartbeat:
    """One thread per process that renews all running claims, in one batch per store, at a third of their lease.

    The thread starts with the first claim of the process. A forked child begins with none of its parent's claims: a
    dead process stops renewing, and that is how others learn that it died.
    """

    def __init__(self) -> None:
        self._forget_everything()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_everything)

    def _forget_everything(self) -> None:
        self._beats: dict[bytes, _Beat] = {}
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._hurry = threading.Event()
        self._pause = float("inf")

    def __len__(self) -> int:
        """How many claims this process holds now."""
        return len(self._beats)

    def watch(self, store: Store, claim: Claim, lease: float) -> None:
        """Keep renewing `claim` until it is forgotten."""
        self._beats[claim.token] = _Beat(store, claim, lease, time.monotonic())
        self._wake_within(lease / 3)

    def forget(self, claim: Claim) -> None:
        """Stop renewing `claim`."""
        self._beats.pop(claim.token, None)

    def finish_later(self, store: Store, claim: Claim, lease: float, finish: Callable[[], object]) -> None:
        """Go on renewing `claim` and call `finish` until it does not raise `StoreUnavailable`."""
        self._beats[claim.token] = _Beat(store, claim, lease, time.monotonic(), finish)
        self._wake_within(min(_RETRY_EVERY, lease / 3))

    def _wake_within(self, seconds: float) -> None:
        # Only a shorter lease than any before it disturbs the sleeping thread; the usual request never does.
        if seconds >= self._pause:
            return
        with self._starting:
            self._pause = min(seconds, self._pause)
            self._hurry.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="idempotency-heartbeat", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._hurry.wait(self._pause)
            self._hurry.clear()
            try:
                self._tick()
            except Exception:  # the thread must outlive whatever a store does
                logger.exception("The heartbeat could not renew claims; it tries again.")

    def _tick(self) -> None:
        with self._starting:
            beats = list(self._beats.values())
            if beats:
                self._pause = min(beat.lease / 3 for beat in beats)
                if any(beat.unfinished for beat in beats):
                    self._pause = min(self._pause, _RETRY_EVERY)
            pause = self._pause
        now = time.monotonic()
        due: dict[tuple[int, float], list[_Beat]] = {}
        for beat in beats:
            # Due now, if by the next tick it would be older than a third of its lease.
            if now + pause - beat.renewed_at >= beat.lease / 3:
                due.setdefault((id(beat.store), beat.lease), []).append(beat)
        for (_, lease), group in due.items():
            self._renew(group, lease, now)
        for beat in beats:
            if beat.unfinished is not None:
                self._finish(beat)

    def _renew(self, beats: list[_Beat], lease: float, now: float) -> None:
        try:
            beats[0].store.renew([beat.claim for beat in beats], lease=lease)
        except StoreUnavailable as error:
            logger.warning("%d claims could not be renewed: %s", len(beats), error)
        else:
            for beat in beats:
                beat.renewed_at = now

    def _finish(self, beat: _Beat) -> None:
        assert beat.unfinished is not None
        try:
            beat.unfinished()
        except StoreUnavailable:
            return
        self.forget(beat.claim)


#: The heartbeat of this process.
heartbeat = Heartbeat()

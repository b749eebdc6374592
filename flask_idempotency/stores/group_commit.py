"""Lets threads that write at the same time share one transaction, and one wait for the disk."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ..engine.store import StoreUnavailable

Job = TypeVar("Job")


class _Ticket(Generic[Job]):
    __slots__ = ("done", "error", "job", "leads", "turn")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.done = False
        self.leads = False
        self.error: Exception | None = None
        self.turn: threading.Lock | None = None


class GroupCommit(Generic[Job]):
    """A queue of jobs in which whoever comes first commits for all who came meanwhile.

    The thread that finds nobody at work leads: it runs the batch, then hands the lead to the first who came during
    it, so that the order is that of arrival. Nothing is polled, and a lone thread pays two locks.
    """

    def __init__(self, run: Callable[[Sequence[Job]], None]) -> None:
        self._run = run
        self._mutex = threading.Lock()
        self._queue: deque[_Ticket[Job]] = deque()
        self._led = False

    def submit(self, job: Job) -> None:
        """Run `job`, in a batch with others. What `run` raises for the batch is raised to each of its jobs."""
        ticket = _Ticket(job)
        with self._mutex:
            if self._led:
                ticket.turn = threading.Lock()
                ticket.turn.acquire()
            self._queue.append(ticket)
            self._led = True
        if ticket.turn is not None:
            try:
                ticket.turn.acquire()  # until the job is done, or it is this thread's turn to lead
            except BaseException:  # torn off while it waited, as gevent's Timeout does
                self._leave(ticket)
                raise
        if not ticket.done:
            self._lead()
        if ticket.error is not None:
            raise ticket.error

    def _lead(self) -> None:
        with self._mutex:
            batch = list(self._queue)
            self._queue.clear()
        error: Exception | None = StoreUnavailable("the thread that was writing for this one was torn off")
        try:
            self._run([ticket.job for ticket in batch])
            error = None
        except Exception as raised:  # noqa: BLE001 - raised again, to each whose job it was
            error = raised
        finally:
            for ticket in batch:
                ticket.error = error
                ticket.done = True
                if ticket.turn is not None:
                    ticket.turn.release()
            with self._mutex:
                self._pass_on()

    def _pass_on(self) -> None:
        """Hand the lead to the first in the queue, if there is one. Called with the mutex held."""
        self._led = bool(self._queue)
        if self._queue:
            successor = self._queue[0]
            successor.leads = True
            assert successor.turn is not None
            successor.turn.release()

    def _leave(self, ticket: _Ticket[Job]) -> None:
        with self._mutex:
            if ticket in self._queue:
                self._queue.remove(ticket)
            if ticket.leads and not ticket.done:
                self._pass_on()

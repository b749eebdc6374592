"""Lets threads that write at the same time share one transaction, and one wait for the disk."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice, takewhile
from typing import Generic, TypeVar

from ..engine.store import StoreUnavailable

Job = TypeVar("Job")


class NoTurn(StoreUnavailable):
    """The write lock was not to be had in time. For one job of a batch alone it would be no sooner."""


class _Ticket(Generic[Job]):
    __slots__ = ("done", "error", "job", "turn")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.done = False
        self.error: Exception | None = None
        self.turn: threading.Lock | None = None  # what its thread sleeps on; None: it need not

    def wake(self) -> None:
        """Let its thread go on. It does no harm to do so twice."""
        if self.turn is not None and self.turn.locked():
            self.turn.release()


#: There is one lead; `dict.setdefault` gives it to one of those who grasp for it at the same time.
_LEAD = 0


class GroupCommit(Generic[Job]):
    """A queue of jobs in which whoever comes first commits for all who came meanwhile.

    The thread that finds nobody at work leads: it runs the batch, then hands the lead to the first who came during
    it, so that the order is that of arrival. Where it had to wait for something first, `latecomers` gives it those who
    came in that time. Nothing is polled, and a lone thread pays next to nothing. A thread may be torn off at any point,
    as by gevent's `Timeout` or by a signal handler that raises: the lead passes on all the same.
    """

    def __init__(self, run: Callable[[Sequence[Job]], None]) -> None:
        self._run = run
        self._mutex = threading.Lock()
        self._queue: deque[_Ticket[Job]] = deque()
        self._lead: dict[int, object] = {}
        self._batch: list[_Ticket[Job]] = []  # what the leader has taken on
        self._joinable = False  # whether it may take on more

    def enter(self, me: object) -> bool:
        """Whether nobody else is at work: then `me`, a new object, is alone at it until it leaves.

        For a thread that runs its own job, and can have it done sooner than handed on. It has to leave whatever comes.
        """
        return not self._queue and self._lead.setdefault(_LEAD, me) is me

    def leave(self, me: object) -> None:
        """Let those go on who came meanwhile. It does no harm to do so twice, or without having entered."""
        if self._lead.get(_LEAD) is me:
            del self._lead[_LEAD]
        if self._queue:
            with self._mutex:
                self._pass_on()

    def submit(self, job: Job) -> None:
        """Run `job`, in a batch with others; raises what `run` raises for it.

        Where a batch fails, each of its jobs is run again alone: one job's trouble is not its neighbours'.
        """
        ticket = _Ticket(job)
        try:
            with self._mutex:
                if self.enter(ticket):
                    self._batch = [ticket]
                else:
                    ticket.turn = threading.Lock()
                    ticket.turn.acquire()
                    self._queue.append(ticket)
                    self._pass_on()  # the one who was alone at it may have left meanwhile
            if ticket.turn is not None:
                ticket.turn.acquire()  # until the job is done, or it is this thread's turn to lead
                if not ticket.done:
                    self._take_on(lambda job: True)
            if not ticket.done:
                self._lead_batch()
                self._step_down(ticket)
        except BaseException:
            self._step_down(ticket)
            raise
        if ticket.error is not None:
            raise ticket.error

    def latecomers(self, fits: Callable[[Job], bool]) -> list[Job]:
        """For `run`, when it has what it waited for: the jobs that came meanwhile, up to the first that does not fit.

        They are part of the batch from now on.
        """
        return self._take_on(fits) if self._joinable and self._queue else []

    def _take_on(self, fits: Callable[[Job], bool]) -> list[Job]:
        with self._mutex:
            joined = list(takewhile(lambda ticket: fits(ticket.job), self._queue))
            left = deque(islice(self._queue, len(joined), None))
            # Nothing can tear this off in between.
            self._batch, self._queue = [*self._batch, *joined], left
        return [ticket.job for ticket in joined]

    def _lead_batch(self) -> None:
        self._joinable = True
        error = self._attempt(self._batch)
        self._joinable = False
        batch = self._batch
        alone = error is not None and len(batch) > 1 and not isinstance(error, NoTurn)
        for ticket in batch:
            ticket.error = self._attempt([ticket]) if alone else error
            ticket.done = True

    def _attempt(self, batch: Sequence[_Ticket[Job]]) -> Exception | None:
        try:
            self._run([ticket.job for ticket in batch])
        except Exception as error:  # noqa: BLE001 - raised again, to each whose job it was
            return error
        return None

    def _step_down(self, ticket: _Ticket[Job]) -> None:
        """End this ticket's part in the matter, wherever its thread was when it ended; again, where that broke off."""
        with self._mutex:
            if ticket in self._queue:
                self._queue.remove(ticket)
            if self._lead.get(_LEAD) is ticket:
                for other in self._batch:
                    if not other.done:
                        other.error = StoreUnavailable("the thread that was writing for this one was torn off")
                        other.done = True
                    other.wake()
                self._batch = []
                del self._lead[_LEAD]
            self._pass_on()

    def _pass_on(self) -> None:
        """See to it that somebody leads, where somebody waits, and knows of it."""
        if self._queue:
            self._lead.setdefault(_LEAD, self._queue[0])
        leader = self._lead.get(_LEAD)
        if isinstance(leader, _Ticket):
            leader.wake()

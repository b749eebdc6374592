"""Threads that share a transaction: none is lost, none waits for ever, and none pays for another's trouble."""

import contextlib
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import group_commit
from flask_idempotency.stores.group_commit import GroupCommit, NoTurn

from .torn_off import TornOff, torn_off

TIMEOUT = 20.0


class Ledger:
    """Jobs that were run, batch by batch; the first batch waits until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.inside = 0
        self.fail: Callable[[Sequence[str]], object] = lambda jobs: None

    def run(self, jobs: Sequence[str]) -> None:
        self.inside += 1
        assert self.inside == 1, "two threads lead at once"
        try:
            self.batches.append(list(jobs))
            self.entered.set()
            assert self.let_go.wait(TIMEOUT)
            self.fail(jobs)
        finally:
            self.inside -= 1


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def queue_up(commits: GroupCommit[str], ledger: Ledger, *jobs: str) -> "dict[str, threading.Thread]":
    """Start a thread for each job, the first leading, the others known to be in the queue, in order."""
    threads = {}
    for place, job in enumerate(jobs):
        threads[job] = threading.Thread(target=swallow, args=(commits, job), daemon=True)
        threads[job].start()
        if place == 0:
            assert ledger.entered.wait(TIMEOUT)
        while len(commits._queue) < place:
            pass
    return threads


def swallow(commits: GroupCommit[str], job: str) -> None:
    with contextlib.suppress(StoreUnavailable, TornOff):
        commits.submit(job)


def join(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "a thread waits for ever"


def test_those_who_come_meanwhile_share_the_next_batch_in_the_order_in_which_they_came(ledger: Ledger) -> None:
    commits = GroupCommit(ledger.run)
    threads = queue_up(commits, ledger, "a", "b", "c", "d")
    ledger.let_go.set()
    join(*threads.values())
    assert ledger.batches == [["a"], ["b", "c", "d"]]


def test_one_jobs_trouble_is_not_its_neighbours(ledger: Ledger) -> None:
    def fail(jobs: Sequence[str]) -> None:
        if "bad" in jobs:
            raise StoreUnavailable("too big")

    ledger.fail = fail
    commits = GroupCommit(ledger.run)
    outcomes: dict[str, str] = {}

    def submit(job: str) -> None:
        try:
            commits.submit(job)
            outcomes[job] = "done"
        except StoreUnavailable as error:
            outcomes[job] = str(error)

    first = queue_up(commits, ledger, "first")
    others = [threading.Thread(target=submit, args=(job,), daemon=True) for job in ("good", "bad", "fine")]
    for place, other in enumerate(others):
        other.start()
        while len(commits._queue) <= place:
            pass
    ledger.let_go.set()
    join(*first.values(), *others)
    assert outcomes == {"good": "done", "bad": "too big", "fine": "done"}
    assert ledger.batches == [["first"], ["good", "bad", "fine"], ["good"], ["bad"], ["fine"]]


def test_a_batch_that_got_no_turn_does_not_wait_again_for_each_of_its_jobs(ledger: Ledger) -> None:
    def fail(jobs: Sequence[str]) -> None:
        if len(ledger.batches) > 1:
            raise NoTurn("locked")

    ledger.fail = fail
    commits = GroupCommit(ledger.run)
    threads = queue_up(commits, ledger, "a", "b", "c")
    ledger.let_go.set()
    join(*threads.values())
    assert ledger.batches == [["a"], ["b", "c"]]


def test_an_error_reaches_the_one_whose_job_it_was() -> None:
    def run(jobs: Sequence[str]) -> None:
        raise StoreUnavailable("no room")

    commits = GroupCommit(run)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="no room"):
            commits.submit("a")


def test_jobs_of_a_leader_that_was_torn_off_hear_of_it_and_the_lead_passes_on(ledger: Ledger) -> None:
    def fail(jobs: Sequence[str]) -> None:
        if "doomed" in jobs:
            raise TornOff

    ledger.fail = fail
    commits = GroupCommit(ledger.run)
    threads = queue_up(commits, ledger, "a", "doomed", "in the same batch")
    ledger.let_go.set()
    join(*threads.values())
    commits.submit("afterwards")
    assert ledger.batches == [["a"], ["doomed", "in the same batch"], ["afterwards"]]


def test_those_who_come_while_the_leader_waits_join_its_batch_up_to_the_first_that_does_not_fit(ledger: Ledger) -> None:
    joined = []

    def join_late(jobs: Sequence[str]) -> None:
        joined.append(commits.latecomers(lambda job: job != "too heavy"))

    ledger.fail = join_late
    commits = GroupCommit(ledger.run)
    threads = queue_up(commits, ledger, "a", "b", "c", "too heavy", "d")
    ledger.let_go.set()
    join(*threads.values())
    assert ledger.batches == [["a"], ["too heavy", "d"]]
    assert joined == [["b", "c"], []]


def test_a_latecomers_trouble_is_not_its_neighbours(ledger: Ledger) -> None:
    def fail(jobs: Sequence[str]) -> None:
        late = commits.latecomers(lambda job: True)
        if "bad" in [*jobs, *late]:
            raise StoreUnavailable("too big")

    ledger.fail = fail
    commits = GroupCommit(ledger.run)
    threads = queue_up(commits, ledger, "first", "good", "bad")
    ledger.let_go.set()
    join(*threads.values())
    # All three together, and then each alone, with nobody joining.
    assert ledger.batches == [["first"], ["first"], ["good"], ["bad"]]


@pytest.mark.parametrize("place", ["alone", "leading others", "joined by others", "waiting"])
def test_a_thread_torn_off_at_any_point_takes_nobody_with_it(place: str) -> None:
    """The exception comes at each single moment at which the module can be interrupted, until none is left."""
    moment, torn = 0, True
    while torn:
        ledger = Ledger()
        commits = GroupCommit(ledger.run)
        if place == "joined by others":
            ledger.fail = lambda jobs, commits=commits: commits.latecomers(lambda job: True)  # type: ignore[misc]
        if place == "alone":
            ledger.let_go.set()
            torn = submit_torn_off(commits, "torn", moment)
        elif place == "waiting":
            threads = queue_up(commits, ledger, "leads")
            victim = ThreadPoolExecutor(1)
            outcome = victim.submit(submit_torn_off, commits, "torn", moment)
            while not commits._queue and not outcome.done():
                pass
            ledger.let_go.set()
            join(*threads.values())
            torn = outcome.result(TIMEOUT)
            victim.shutdown()
        else:
            victim = ThreadPoolExecutor(1)
            outcome = victim.submit(submit_torn_off, commits, "torn", moment)
            while not ledger.entered.is_set() and not outcome.done():
                pass
            threads = {}
            if not outcome.done():
                follower = threading.Thread(target=swallow, args=(commits, "follows"), daemon=True)
                follower.start()
                threads["follows"] = follower
                while not commits._queue and follower.is_alive() and not outcome.done():
                    pass
            ledger.let_go.set()
            torn = outcome.result(TIMEOUT)
            join(*threads.values())
            victim.shutdown()
        after = threading.Thread(target=commits.submit, args=("afterwards",), daemon=True)
        after.start()
        after.join(TIMEOUT)
        assert not after.is_alive(), f"torn off at moment {moment}, {place}: the lead is lost"
        assert ledger.batches[-1] == ["afterwards"]
        assert not commits._queue
        moment += 1
    assert moment > 10, "there are more moments than that"


def submit_torn_off(commits: GroupCommit[str], job: str, moment: int) -> bool:
    """Submit, and be torn off at the moment of that number; False where it ended before."""
    return torn_off(lambda: commits.submit(job), moment, group_commit)


def on_its_own(commits: GroupCommit[str], act: Callable[[], object]) -> bool:
    """Do it without a job, as long as nobody else is at work."""
    me = object()
    alone = False
    try:
        if commits.enter(me):
            act()
            alone = True
        commits.leave(me)
    except BaseException:
        commits.leave(me)
        raise
    return alone


def test_who_is_on_its_own_keeps_the_others_waiting_and_they_share_the_next_batch(ledger: Ledger) -> None:
    commits = GroupCommit(ledger.run)
    ledger.let_go.set()
    threads: list[threading.Thread] = []

    def meanwhile() -> None:
        for place, job in enumerate(("a", "b", "c")):
            threads.append(threading.Thread(target=swallow, args=(commits, job), daemon=True))
            threads[-1].start()
            while len(commits._queue) <= place:
                pass
        assert not on_its_own(commits, ledger.batches.clear)
        assert ledger.batches == []

    assert on_its_own(commits, meanwhile)
    join(*threads)
    assert ledger.batches == [["a", "b", "c"]]
    assert on_its_own(commits, lambda: None)


@pytest.mark.parametrize("waiting", [True, False], ids=["others waiting", "alone"])
def test_who_is_on_its_own_and_torn_off_at_any_point_takes_nobody_with_it(waiting: bool) -> None:
    moment, torn = 0, True
    while torn:
        ledger = Ledger()
        ledger.let_go.set()
        commits = GroupCommit(ledger.run)
        others: list[threading.Thread] = []

        def meanwhile(others: list[threading.Thread] = others, commits: GroupCommit[str] = commits) -> None:
            if waiting:
                others.append(threading.Thread(target=swallow, args=(commits, "waits"), daemon=True))
                others[0].start()
                while not commits._queue:
                    pass

        torn = torn_off(lambda commits=commits, act=meanwhile: on_its_own(commits, act), moment, group_commit)  # type: ignore[misc]
        join(*others)
        join_after = threading.Thread(target=commits.submit, args=("afterwards",), daemon=True)
        join_after.start()
        join(join_after)
        assert ledger.batches[-1] == ["afterwards"]
        assert on_its_own(commits, lambda: None)
        moment += 1
    assert moment >= 3, "there are more moments than that"


def test_threads_on_their_own_and_threads_with_jobs_are_at_it_one_at_a_time_and_all_come_to_it() -> None:
    inside = done = 0

    def act(jobs: Sequence[int] = (0,)) -> None:
        nonlocal inside, done
        inside += 1
        assert inside == 1
        done += len(jobs)
        inside -= 1

    commits: GroupCommit[int] = GroupCommit(act)

    def work(number: int) -> None:
        if not on_its_own(commits, act):  # type: ignore[arg-type]
            commits.submit(number)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(5000), timeout=TIMEOUT))
    assert done == 5000


def test_of_many_jobs_by_many_threads_each_is_run_once_and_by_one_thread_at_a_time() -> None:
    done: list[int] = []
    inside = 0

    def run(jobs: Sequence[int]) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        done.extend(jobs)
        inside -= 1
        if random.random() < 0.1:
            done[-len(jobs) :] = []
            raise NoTurn("locked")

    commits = GroupCommit(run)

    def submit(job: int) -> None:
        while True:
            try:
                return commits.submit(job)
            except NoTurn:
                continue

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(submit, range(5000), timeout=TIMEOUT))
    assert sorted(done) == list(range(5000))

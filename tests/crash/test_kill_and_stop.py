"""Server processes that are killed or stopped at the worst moments."""

import math
import os
import signal
import time
from collections.abc import Callable

import pytest

from .gunicorn import Till

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn needs a system with fork")

OpenTill = Callable[..., Till]
LEASE = 4.0
OTHER_PAYLOAD = {"amount": 2}


def kill_in_mid_handler(till: Till) -> tuple[Till, dict[str, str]]:
    """A worker dies while its handler stands at the gate, which opens for whoever comes next."""
    payload = till.gate("gate")
    first = till.servers[0].start_paying("k", payload)
    till.entered("gate")
    os.kill(till.runner("k"), signal.SIGKILL)
    assert first.answer().status == 0
    till.open("gate")
    return till, payload


def test_a_killed_handlers_key_is_busy_until_its_lease_ends_and_then_runs_again_and_knows_it(
    open_till: OpenTill,
) -> None:
    till = open_till(lease=LEASE)
    server = till.serve(workers=2)
    _, payload = kill_in_mid_handler(till)
    in_progress = server.pay("k", payload)
    assert (in_progress.status, in_progress.problem) == (409, "request-in-progress")
    assert 1 <= int(in_progress.headers["Retry-After"]) <= math.ceil(LEASE)
    assert server.pay("k", OTHER_PAYLOAD).problem == "idempotency-key-reused"
    time.sleep(LEASE)
    # The lease is over, but a lapse never lets another payload run.
    changed = server.pay("k", OTHER_PAYLOAD)
    assert (changed.status, changed.problem) == (422, "idempotency-key-reused")
    again = server.pay("k", payload)
    assert (again.status, again.json["number"], again.json["lapsed"]) == (201, 2, True)
    replay = server.pay("k", payload)
    assert (replay.json, replay.replayed) == (again.json, True)
    assert till.runs() == {"k": 2}


def test_who_asks_again_as_told_gets_through_as_soon_as_the_lease_is_over(open_till: OpenTill) -> None:
    till = open_till(lease=LEASE)
    server = till.serve(workers=2)
    _, payload = kill_in_mid_handler(till)
    asked = 0
    while (answer := server.pay("k", payload)).status == 409:
        asked += 1
        time.sleep(int(answer.headers["Retry-After"]))
    assert (answer.status, answer.json["number"]) == (201, 2)
    assert 1 <= asked <= LEASE + 1


def test_where_the_policy_refuses_a_killed_handlers_outcome_stays_unknown(open_till: OpenTill) -> None:
    till = open_till(lease=LEASE, on_lapse="refuse")
    server = till.serve(workers=2)
    _, payload = kill_in_mid_handler(till)
    assert server.pay("k", payload).problem == "request-in-progress"
    time.sleep(LEASE)
    for _ in range(2):
        refused = server.pay("k", payload)
        assert (refused.status, refused.problem) == (409, "outcome-unknown")
    assert server.pay("k", OTHER_PAYLOAD).problem == "idempotency-key-reused"
    assert till.runs() == {"k": 1}


def test_a_handler_of_several_leases_keeps_its_claim_under_every_kind_of_worker(open_till: OpenTill) -> None:
    tills = {kind: open_till(lease=2.0) for kind in ("sync", "gthread", "gevent")}
    running = {}
    for kind, till in tills.items():
        server = till.serve(kind=kind, workers=2, threads=2, preload=kind == "gevent")
        running[kind] = server.start_paying("slow", till.gate("gate"))
    for till in tills.values():
        till.entered("gate")
    ends = time.monotonic() + 5.0
    while time.monotonic() < ends:
        for till in tills.values():
            assert till.servers[0].pay("slow", till.gate("gate")).problem == "request-in-progress"
        time.sleep(0.05)
    for kind, till in tills.items():
        till.open("gate")
        first = running[kind].answer()
        assert (first.status, first.json["number"]) == (201, 1), kind
        replay = till.servers[0].pay("slow", till.gate("gate"))
        assert (replay.json, replay.replayed) == (first.json, True), kind
        assert till.runs() == {"slow": 1}, kind


@pytest.mark.parametrize("then", ["answer", "fail"])
@pytest.mark.parametrize("winner_is", ["in flight", "done"])
def test_a_process_stopped_past_its_lease_is_fenced_when_it_goes_on(
    open_till: OpenTill, winner_is: str, then: str
) -> None:
    """It can neither complete nor give back the claim of the winner."""
    till = open_till(lease=1.0)
    stopped, other = till.serve(kind="gthread", threads=2), till.serve(kind="gthread", threads=2)
    payload = till.gate("gate")
    first = stopped.start_paying("k", payload)
    till.entered("gate")
    worker = till.runner("k")
    os.kill(worker, signal.SIGSTOP)
    try:
        winning = other.start_paying_until_done("k", payload)
        till.entered("gate", attempt=2)
        if winner_is == "done":
            till.open("gate", attempt=2)
            winning.answer()
        till.open("gate", then, attempt=1)
        assert not first.done()
    finally:
        os.kill(worker, signal.SIGCONT)
    fenced = first.answer()
    assert (fenced.status, fenced.problem, fenced.headers["Retry-After"]) == (409, "claim-lost", "1")
    if winner_is == "in flight":
        assert [server.pay("k", payload).problem for server in (stopped, other)] == ["request-in-progress"] * 2
        till.open("gate", attempt=2)
    winner = winning.answer()
    assert (winner.status, winner.json["number"], winner.json["lapsed"]) == (201, 2, True)
    for server in (stopped, other):
        replay = server.pay("k", payload)
        assert (replay.json, replay.replayed) == (winner.json, True)
    assert till.runs() == {"k": 2}


def test_a_handler_that_hangs_for_longer_than_it_may_is_fenced_however_alive_its_process_is(
    open_till: OpenTill,
) -> None:
    till = open_till(lease=1.0, max_run=1.0)
    server = till.serve(kind="gthread", threads=4)
    payload = till.gate("gate")
    hanging = server.start_paying("k", payload)
    till.entered("gate")
    till.open("gate", attempt=2)
    winner = server.pay_until_done("k", payload)
    assert (winner.status, winner.json["number"], winner.json["lapsed"]) == (201, 2, True)
    till.open("gate", attempt=1)
    assert hanging.answer().problem == "claim-lost"
    assert server.pay("k", payload).json == winner.json


def tear_off_by_exit(till: Till) -> None:
    till.open("gate", "exit", attempt=1)


def tear_off_by_time_out(till: Till) -> None:
    """The server gives the worker up by itself."""


@pytest.mark.parametrize("tear_off", [tear_off_by_exit, tear_off_by_time_out])
@pytest.mark.parametrize("on_lapse", ["rerun", "refuse"])
def test_a_worker_that_is_given_up_in_mid_handler_has_crashed_and_not_failed(
    open_till: OpenTill, tear_off: Callable[[Till], None], on_lapse: str
) -> None:
    till = open_till(lease=LEASE, on_lapse=on_lapse)
    server = till.serve(timeout=2 if tear_off is tear_off_by_time_out else 120)
    payload = till.gate("gate")
    first = server.start_paying("k", payload)
    till.entered("gate")
    tear_off(till)
    assert first.answer().status in (0, 500)
    till.open("gate", attempt=2)
    busy = server.pay("k", payload)
    assert (busy.status, busy.problem) == (409, "request-in-progress")
    assert server.pay("k", OTHER_PAYLOAD).problem == "idempotency-key-reused"
    time.sleep(LEASE)
    then = server.pay("k", payload)
    if on_lapse == "rerun":
        assert (then.status, then.json["number"], then.json["lapsed"]) == (201, 2, True)
    else:
        assert (then.status, then.problem) == (409, "outcome-unknown")
        assert till.runs() == {"k": 1}


def test_a_process_killed_before_it_kept_its_answer_is_run_again_once(open_till: OpenTill) -> None:
    till = open_till(lease=1.0)
    server = till.serve(workers=2)
    (till.folder / "ledger.kill.before").touch()
    assert server.pay("k").status == 0
    again = server.pay_until_done("k")
    assert (again.json["number"], again.json["lapsed"], again.replayed) == (2, True, False)
    assert server.pay("k").json == again.json
    assert till.runs() == {"k": 2}


def test_a_process_killed_after_it_kept_its_answer_is_never_run_again(open_till: OpenTill) -> None:
    till = open_till(lease=1.0)
    server = till.serve(workers=2)
    (till.folder / "ledger.kill.after").touch()
    assert server.pay("k").status == 0
    kept = server.pay_until_done("k")
    assert (kept.json["number"], kept.replayed) == (1, True)
    assert till.runs() == {"k": 1}


def test_answers_survive_the_death_of_every_process_and_of_the_next_ones(open_till: OpenTill) -> None:
    till = open_till()
    server = till.serve(workers=2)
    paid = {str(number): server.pay(str(number)).json for number in range(20)}
    for _ in range(2):
        server.kill()
        server = till.serve(workers=2)
        for key, answer in paid.items():
            replay = server.pay(key)
            assert (replay.json, replay.replayed) == (answer, True)
    assert set(till.runs().values()) == {1}


def test_a_master_that_was_used_before_it_forked_takes_nothing_from_its_workers(open_till: OpenTill) -> None:
    till = open_till(used_by_master=True)
    server = till.serve(workers=3, preload=True)
    paid = {}
    for number in range(30):
        paid[str(number)] = server.pay(str(number)).json
        if number % 10 == 9:
            # A worker dies, another is forked from the master.
            os.kill(till.runner(str(number)), signal.SIGKILL)
    for key, answer in paid.items():
        replay = server.pay_until_done(key)
        assert (replay.json, replay.replayed) == (answer, True)
    server.kill()
    assert till.serve().pay("0").replayed
    assert set(till.runs().values()) == {1}

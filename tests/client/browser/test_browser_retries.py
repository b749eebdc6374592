"""When the browser's client asks again, and when it must not."""

import json
from typing import Any

import pytest
from playwright.sync_api import Page

from ..faulty_network import Fault
from ..payment_server import Canned, Till
from .pages import Customer, until


def pay(page: Page, payment: Any = None, **init: Any) -> dict[str, Any]:
    told: dict[str, Any] = page.evaluate("([payment, init]) => pay(payment, init)", [payment or {"amount": 42}, init])
    return told


def stop_the_clock(page: Page) -> None:
    """From now on, time is what the test makes it."""
    page.clock.install()
    page.clock.pause_at(page.evaluate("Date.now() + 3_600_000"))


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_ANSWER, Fault.RESET, Fault.CUT_ANSWER])
def test_a_payment_that_the_network_lost_is_made_once_and_answered(
    customer: Customer, page: Page, till: Till, fault: Fault
) -> None:
    # Chromium by itself repeats a request, key and all, whose connection it had opened ahead: not each fault is told.
    customer.fail(*[fault] * 4)

    told = pay(page, options={"attempts": 10})

    assert (told["status"], json.loads(told["text"])) == (201, {"charge": 1})
    assert len(till.charges) == 1
    assert len({*till.keys, *(attempt["key"] for attempt in told["attempts"])}) == 1
    *failed, last = [(attempt["number"], attempt["error"]) for attempt in told["attempts"]]
    assert failed
    assert failed == [(number, "TypeError") for number in range(1, len(failed) + 1)]
    assert last == (len(failed) + 1, None)


@pytest.mark.parametrize("fault", [Fault.HOLD_ANSWER, Fault.HOLD_REQUEST])
def test_an_attempt_that_takes_too_long_is_given_up_and_repeated(
    customer: Customer, page: Page, till: Till, fault: Fault
) -> None:
    customer.fail(fault)

    told = pay(page, options={"timeout": 300, "attempts": 20})

    assert told["status"] == 201
    assert told["attempts"][0]["error"] == "TimeoutError"
    until(lambda: len(till.seen) > 1, page)
    assert len(till.charges) == 1
    assert len(set(till.keys)) == 1


@pytest.mark.parametrize("status", [425, 429, 500, 502, 503, 504])
def test_an_answer_that_another_attempt_may_better_is_asked_again_under_the_same_key(
    page: Page, till: Till, status: int
) -> None:
    till.canned.append(Canned(status))

    assert pay(page)["status"] == 201
    assert len(till.seen) == 2
    assert len(set(till.keys)) == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 410, 412, 422, 501])
def test_an_answer_that_is_final_is_not_asked_again(page: Page, till: Till, status: int) -> None:
    till.canned.append(Canned(status, body=b'{"sorry": true}'))

    told = pay(page)

    assert (told["status"], told["text"]) == (status, '{"sorry": true}')
    assert len(till.seen) == 1


@pytest.mark.parametrize(
    "conflict",
    [
        Canned.problem(409, "request-in-progress", ("Retry-After", "0")),
        Canned.problem(409, "claim-lost", ("Retry-After", "0")),
        Canned(409, (("Retry-After", "0"),), b"seat held by another"),
        Canned(409, (("Retry-After", "soon"),)),
    ],
)
def test_a_conflict_that_says_when_to_come_back_is_asked_again(page: Page, till: Till, conflict: Canned) -> None:
    till.canned.append(conflict)

    assert pay(page)["status"] == 201
    assert len(set(till.keys)) == 1
    assert len(till.seen) == 2


@pytest.mark.parametrize("slug", ["request-in-progress", "outcome-unknown", "response-not-kept", "already-paid"])
def test_a_conflict_that_says_no_time_is_final(page: Page, till: Till, slug: str) -> None:
    till.canned.append(Canned.problem(409, slug))

    told = pay(page)

    assert told["status"] == 409
    assert json.loads(told["text"])["type"].endswith(slug)
    assert len(till.seen) == 1


def test_a_replayed_failure_is_final_since_it_will_not_change(page: Page, till: Till) -> None:
    till.canned.append(Canned(500, (("Idempotent-Replayed", "true"),)))

    assert pay(page)["status"] == 500
    assert len(till.seen) == 1


def test_the_last_answer_is_given_once_the_attempts_are_used_up(page: Page, till: Till) -> None:
    till.canned.extend([Canned(503), Canned(502), Canned(503), Canned(500, body=b"the fourth")])

    told = pay(page)

    assert (told["status"], told["text"]) == (500, "the fourth")
    assert len(till.seen) == 4
    assert [attempt["wait"] is None for attempt in told["attempts"]] == [False, False, False, True]


def test_the_last_error_is_given_once_the_attempts_are_used_up(customer: Customer, page: Page, till: Till) -> None:
    customer.fail(*[Fault.LOSE_REQUEST] * 20)

    told = pay(page)

    assert told["error"] == "TypeError"
    assert len(told["attempts"]) == 4
    assert till.seen == []


def test_an_answer_keeps_its_address_and_a_body_that_was_not_used(customer: Customer, page: Page) -> None:
    told = pay(page)

    assert told["url"] == f"{customer.network.url}/payments"
    assert json.loads(told["text"]) == {"charge": 1}


def test_an_answer_can_be_read_long_after_the_time_out_of_its_attempt(page: Page) -> None:
    text = page.evaluate(
        """async () => {
            const fetch = idempotency.createFetch({ timeout: 200, attempts: 50, backoff: 1 });
            const response = await fetch("/payments", { method: "POST" });
            await new Promise((resolve) => setTimeout(resolve, 300));
            return response.text();
        }"""
    )

    assert json.loads(text) == {"charge": 1}


def test_what_the_server_asks_for_is_waited_for(page: Page, till: Till) -> None:
    stop_the_clock(page)
    till.canned.append(Canned(503, (("Retry-After", "120"),)))
    page.evaluate("() => { pay(1, { options: { deadline: 300_000 } }); }")
    until(lambda: page.evaluate("told.length") == 1, page)

    page.clock.run_for(119_999)
    assert len(till.seen) == 1

    page.clock.run_for(1)
    until(lambda: len(till.charges) == 1, page)
    assert page.evaluate("told[0].wait") == 120_000


def test_a_wait_that_would_end_past_the_deadline_gives_the_last_answer_at_once(page: Page, till: Till) -> None:
    till.canned.append(Canned(503, (("Retry-After", "3600"),)))

    told = pay(page)

    assert told["status"] == 503
    assert [attempt["wait"] for attempt in told["attempts"]] == [None]


def test_no_attempt_takes_longer_than_what_is_left_until_the_deadline(customer: Customer, page: Page) -> None:
    stop_the_clock(page)
    customer.fail(Fault.HOLD_ANSWER)
    page.evaluate("() => { window.payment = pay(1, { options: { deadline: 5_000, timeout: 60_000 } }); }")
    until(customer.met_all, page)

    page.clock.run_for(5_000)

    told = page.evaluate("payment")
    assert told["error"] == "TimeoutError"
    assert len(told["attempts"]) == 1


def test_an_abort_ends_an_attempt_with_its_reason(customer: Customer, page: Page) -> None:
    customer.fail(Fault.HOLD_ANSWER)
    page.evaluate(
        """() => {
            window.user = new AbortController();
            Math.random = () => 1;
            const options = { backoff: 3_600_000, backoffMax: 3_600_000, deadline: 7_200_000 };
            window.payment = pay(1, { signal: user.signal, options });
        }"""
    )
    until(customer.met_all, page)
    sent = len(customer.network.attempts)

    told = page.evaluate("() => { user.abort(new RangeError('changed my mind')); return payment; }")

    assert (told["error"], told["message"]) == ("RangeError", "changed my mind")
    assert len(customer.network.attempts) == sent


def test_an_abort_ends_a_wait_with_its_reason(page: Page, till: Till) -> None:
    till.canned.append(Canned(503, (("Retry-After", "1000"),)))
    page.evaluate(
        """() => {
            window.user = new AbortController();
            window.payment = pay(1, { signal: user.signal, options: { deadline: 3_600_000 } });
        }"""
    )
    until(lambda: page.evaluate("told.length") == 1, page)

    told = page.evaluate("() => { user.abort(); return payment; }")

    assert told["error"] == "AbortError"
    assert len(till.seen) == 1


def test_nothing_is_sent_for_a_signal_that_was_aborted_before(page: Page, till: Till) -> None:
    told = page.evaluate("pay(1, { signal: AbortSignal.abort(), pin: 'order-17' })")

    assert told["error"] == "AbortError"
    assert till.seen == []
    assert page.evaluate("new idempotency.PendingKeys().unfinished()") == []


def test_an_observer_that_throws_breaks_no_payment(page: Page, till: Till) -> None:
    till.canned.append(Canned(503))
    status = page.evaluate(
        """async () => {
            const onAttempt = () => { throw new Error("the observer's own"); };
            const fetch = idempotency.createFetch({ backoff: 1, onAttempt });
            return (await fetch("/payments", { method: "POST" })).status;
        }"""
    )

    assert status == 201


def test_requests_that_http_calls_idempotent_are_repeated_without_a_key(page: Page, till: Till) -> None:
    for method in ("GET", "PUT", "DELETE"):
        till.canned.extend([Canned(503), Canned(200)])
        page.evaluate("(method) => pay(undefined, { method, body: undefined })", method)

    assert [(seen.method, seen.key) for seen in till.seen] == [
        (method, None) for method in ("GET", "GET", "PUT", "PUT", "DELETE", "DELETE")
    ]


def test_a_method_without_a_key_that_is_not_idempotent_is_sent_once(page: Page, till: Till) -> None:
    till.canned.append(Canned(503))

    assert pay(page, options={"methods": ["PATCH"]})["status"] == 503
    assert till.keys == [None]

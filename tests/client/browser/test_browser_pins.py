"""Keys that outlive the page: after a reload in mid-payment, the payment is repeated, not made again."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from ..faulty_network import Fault
from ..flask_till import FlaskTill
from ..payment_server import Canned, Running, Till
from .chromium import INSECURE_HOST
from .pages import Customer, Shop, until

UNFINISHED = "new idempotency.PendingKeys().unfinished().then((kept) => kept.map(({ name }) => name))"


def pay(page: Page, payment: Any = 42, pin: str = "order-17", **init: Any) -> dict[str, Any]:
    told: dict[str, Any] = page.evaluate("([payment, init]) => pay(payment, init)", [payment, {"pin": pin, **init}])
    return told


def reload_in_mid_payment(customer: Customer, page: Page, till: Till, payment: Any = 42) -> None:
    """The till has charged, but the page is gone before it hears so."""
    charges = len(till.charges)
    customer.fail(Fault.HOLD_ANSWER)
    page.evaluate("(payment) => { pay(payment, { pin: 'order-17' }); }", payment)
    until(lambda: len(till.charges) == charges + 1, page)
    page.reload()


@pytest.mark.parametrize("host", ["127.0.0.1", INSECURE_HOST])
def test_a_reload_in_mid_payment_does_not_pay_twice(customer: Customer, till: Till, host: str) -> None:
    page = customer.open_tab(host=host)
    reload_in_mid_payment(customer, page, till)
    assert page.evaluate(UNFINISHED) == ["order-17"]

    told = pay(page)

    assert (told["status"], json.loads(told["text"])) == (201, {"charge": 1})
    assert told["attempts"][0]["replayed"]
    assert len(till.charges) == len(set(till.keys)) == 1
    assert page.evaluate(UNFINISHED) == []


def test_a_reload_in_mid_payment_under_the_real_extension_does_not_pay_twice(
    customer: Customer, page: Page, running: Running, tmp_path: Path
) -> None:
    till = FlaskTill(tmp_path)
    running.app = Shop(till.app)
    payment = {"amount": 4200, "currency": "eur"}
    init = {"headers": {"Content-Type": "application/json"}, "pin": "order-17"}
    send = "([payment, init]) => { window.paid = pay(payment, { ...init, path: '/v1/payment_intents' }); }"
    customer.fail(Fault.HOLD_ANSWER)
    page.evaluate(send, [payment, init])
    until(lambda: till.charges == [4200], page)
    page.reload()

    page.evaluate(send, [payment, init])
    told = page.evaluate("paid")

    assert (told["status"], json.loads(told["text"])["amount"]) == (200, 4200)
    assert told["attempts"][-1]["replayed"]
    assert till.charges == [4200]


def test_a_tab_that_was_closed_in_mid_payment_is_taken_up_by_another(
    customer: Customer, page: Page, till: Till
) -> None:
    customer.fail(Fault.HOLD_ANSWER)
    page.evaluate("() => { pay(42, { pin: 'order-17' }); }")
    until(lambda: len(till.charges) == 1, page)
    other = customer.open_tab()
    page.close()

    told = pay(other)

    assert json.loads(told["text"]) == {"charge": 1}
    assert len(till.charges) == 1


def test_a_double_click_pays_once(page: Page, till: Till) -> None:
    first, second = page.evaluate("Promise.all([1, 2].map(() => pay(42, { pin: 'order-17' })))")

    assert json.loads(first["text"]) == json.loads(second["text"]) == {"charge": 1}
    assert len(till.charges) == len(set(till.keys)) == 1


def test_two_tabs_that_pin_at_once_get_the_same_key(customer: Customer) -> None:
    tabs = [customer.open_tab(), customer.open_tab()]
    for tab in tabs:
        tab.evaluate(
            """() => {
                const pending = new idempotency.PendingKeys();
                const rounds = new BroadcastChannel("rounds");
                window.keys = [];
                rounds.onmessage = async ({ data }) => {
                    if (!("order" in data)) return;
                    keys.push((await pending.pin(data.order, "00")).key);
                    rounds.postMessage({ pinned: data.order });
                };
            }"""
        )

    # Each round begins in both tabs at once, and ends once both have their key.
    customer.open_tab().evaluate(
        """async () => {
            const rounds = new BroadcastChannel("rounds");
            for (let round = 0; round < 150; round++) {
                let left = 2;
                const done = new Promise((resolve) => {
                    rounds.onmessage = () => { if (--left === 0) resolve(); };
                });
                rounds.postMessage({ order: `order-${round}` });
                await done;
            }
        }"""
    )

    keys, others = [tab.evaluate("keys") for tab in tabs]
    assert len(set(keys)) == 150
    assert keys == others


def test_an_edited_payment_has_a_key_of_its_own_and_the_old_one_is_not_lost(
    customer: Customer, page: Page, till: Till
) -> None:
    reload_in_mid_payment(customer, page, till, {"amount": 42})

    edited = pay(page, {"amount": 43})
    assert json.loads(edited["text"]) == {"charge": 2}
    assert page.evaluate(UNFINISHED) == ["order-17"]

    as_it_was = pay(page, {"amount": 42})
    assert json.loads(as_it_was["text"]) == {"charge": 1}
    assert len(till.charges) == 2
    assert page.evaluate(UNFINISHED) == []


def test_the_same_payload_for_another_object_address_or_method_has_another_key(
    customer: Customer, page: Page, till: Till
) -> None:
    customer.fail(*[Fault.LOSE_REQUEST] * 20)
    for options in ({}, {"pin": "order-18"}, {"path": "/refunds"}, {"method": "PUT"}):
        pay(page, **options, options={"attempts": 1})

    kept = page.evaluate("new idempotency.PendingKeys().unfinished().then((kept) => kept.map(({ key }) => key))")
    assert len(set(kept)) == 4


def test_a_form_is_the_same_payment_after_a_reload_although_its_boundary_is_another(
    customer: Customer, page: Page, till: Till
) -> None:
    send = """(scan) => {
        const body = new FormData();
        body.set("amount", "42");
        body.set("receipt", new File([scan], "receipt.png"));
        window.paid = pay(0, { body, pin: "order-17" });
    }"""
    keys = []
    for scan in ("one", "one", "two"):
        till.canned.append(Canned(503))
        page.evaluate(send.replace('order-17"', 'order-17", options: { attempts: 1 }'), scan)
        page.evaluate("paid")
        keys.append(till.keys[-1])
        page.reload()

    assert keys[0] == keys[1] != keys[2]
    assert len({seen.body for seen in till.seen}) == 3


def test_a_refusal_of_the_first_attempt_settles_the_payment(page: Page, till: Till) -> None:
    till.canned.append(Canned(402))

    pay(page)

    assert page.evaluate(UNFINISHED) == []


@pytest.mark.parametrize("status", [401, 402, 403, 422])
def test_a_refusal_after_an_attempt_in_doubt_does_not_forget_its_key(
    customer: Customer, page: Page, till: Till, status: int
) -> None:
    reload_in_mid_payment(customer, page, till)
    till.canned.append(Canned(status))
    assert pay(page)["status"] == status
    assert page.evaluate(UNFINISHED) == ["order-17"]

    assert json.loads(pay(page)["text"]) == {"charge": 1}
    assert len(till.charges) == 1


@pytest.mark.parametrize("redirect", ["follow", "manual"])
def test_a_redirection_to_the_page_to_sign_in_at_does_not_forget_the_key_of_an_attempt_in_doubt(
    customer: Customer, page: Page, till: Till, redirect: str
) -> None:
    reload_in_mid_payment(customer, page, till)
    till.canned.append(Canned(302, (("Location", "/"),)))
    assert pay(page, redirect=redirect)["status"] == (200 if redirect == "follow" else 0)
    assert page.evaluate(UNFINISHED) == ["order-17"]

    assert json.loads(pay(page)["text"]) == {"charge": 1}
    assert len(till.charges) == 1


def test_a_redirection_of_the_first_attempt_settles_the_payment(page: Page, till: Till) -> None:
    till.canned.append(Canned(303, (("Location", "/"),)))

    assert pay(page)["status"] == 200
    assert page.evaluate(UNFINISHED) == []


def test_a_refusal_after_a_failure_on_the_same_page_does_not_forget_its_key(page: Page, till: Till) -> None:
    till.canned.extend([Canned(500), Canned(401)])

    assert pay(page)["status"] == 401
    assert page.evaluate(UNFINISHED) == ["order-17"]


def test_a_refusal_in_one_tab_does_not_forget_the_key_that_another_tab_uses(
    customer: Customer, page: Page, till: Till
) -> None:
    other = customer.open_tab()
    handle = page.evaluate_handle("new idempotency.PendingKeys().pin('order-17', '00')")
    other.evaluate("new idempotency.PendingKeys().pin('order-17', '00')")

    handle.evaluate("(pinned) => new idempotency.PendingKeys().answered(pinned, 401)")

    assert page.evaluate(UNFINISHED) == ["order-17"]


@pytest.mark.parametrize(
    "answer",
    [
        Canned(500),
        Canned(503),
        Canned.problem(409, "request-in-progress"),
        Canned.problem(409, "outcome-unknown"),
        Canned.problem(409, "response-not-kept"),
    ],
    ids=lambda answer: str(answer.status),
)
def test_an_answer_that_leaves_the_outcome_open_keeps_the_key(page: Page, till: Till, answer: Canned) -> None:
    till.canned.append(answer)

    pay(page, options={"attempts": 1})
    pay(page)

    assert len(till.seen) == 2
    assert len(set(till.keys)) == 1


def test_a_replayed_refusal_settles_the_payment(customer: Customer, page: Page, till: Till) -> None:
    reload_in_mid_payment(customer, page, till)
    till.canned.append(Canned(402, (("Idempotent-Replayed", "true"),)))

    pay(page)

    assert page.evaluate(UNFINISHED) == []


def test_an_abort_keeps_the_key(customer: Customer, page: Page, till: Till) -> None:
    customer.fail(Fault.HOLD_ANSWER)
    page.evaluate(
        """() => {
            window.user = new AbortController();
            window.paid = pay(42, { pin: "order-17", signal: user.signal });
        }"""
    )
    until(lambda: len(till.charges) == 1, page)
    assert page.evaluate("() => { user.abort(); return paid; }")["error"] == "AbortError"

    assert json.loads(pay(page)["text"]) == {"charge": 1}
    assert len(till.charges) == 1


def test_a_key_that_may_no_longer_protect_is_not_used_until_somebody_looked(page: Page, till: Till) -> None:
    page.clock.install()
    till.canned.append(Canned(500))
    pay(page, options={"attempts": 1})
    page.clock.fast_forward("23:00:01")

    told = pay(page)
    assert told["error"] == "KeyOutlived"
    assert "order-17" in told["message"]
    assert len(till.seen) == 1

    page.evaluate("new idempotency.PendingKeys().forget('order-17')")
    assert pay(page)["status"] == 201
    assert len(set(till.keys)) == 2


def test_forgetting_one_object_leaves_the_others(page: Page) -> None:
    left = page.evaluate(
        """async () => {
            const pending = new idempotency.PendingKeys();
            for (const name of ["orde", "order", "order1", "order,1", "ordes"]) await pending.pin(name, "00");
            await pending.pin("order", "01");
            await pending.forget("order");
            return (await pending.unfinished()).map(({ name }) => name).sort();
        }"""
    )

    assert left == ["orde", "order,1", "order1", "ordes"]


def test_a_full_disk_stops_the_payment_before_anything_is_sent(customer: Customer, page: Page, till: Till) -> None:
    devtools = page.context.new_cdp_session(page)
    devtools.send("Storage.overrideQuotaForOrigin", {"origin": customer.network.url, "quotaSize": 1})

    assert pay(page)["error"] == "KeyNotKept"
    assert till.seen == []


def test_a_page_that_may_not_store_anything_is_told_so_before_anything_is_sent(
    customer: Customer, page: Page, till: Till
) -> None:
    page.evaluate(
        """(html) => {
            const frame = document.createElement("iframe");
            frame.sandbox = "allow-scripts";
            frame.srcdoc = html;
            document.body.append(frame);
            return new Promise((resolve) => { frame.onload = resolve; });
        }""",
        page.content().replace("/idempotency.js", f"{customer.network.url}/idempotency.js"),
    )
    frame = page.frames[1]

    assert frame.evaluate("pay(42, { pin: 'order-17' })")["error"] == "KeyNotKept"
    assert till.seen == []


def test_a_storage_that_fails_at_the_end_does_not_take_the_answer_with_it(page: Page) -> None:
    status = page.evaluate(
        """async () => {
            const take = async (request) => {
                Object.defineProperty(window, "indexedDB", { value: undefined });
                return fetch(request);
            };
            const paying = idempotency.createFetch({ fetch: take });
            return (await paying("/payments", { method: "POST", pin: "order-17" })).status;
        }"""
    )

    assert status == 201


def test_what_is_kept_does_not_hold_the_payload(page: Page, till: Till) -> None:
    till.canned.append(Canned(500))
    pay(page, {"card": "4242424242424242"}, options={"attempts": 1})

    kept = page.evaluate("new idempotency.PendingKeys().unfinished().then(JSON.stringify)")
    assert "order-17" in kept
    assert "4242" not in kept


def test_a_pin_without_a_name_is_refused(page: Page, till: Till) -> None:
    for pin in ("''", "null", "17"):
        assert page.evaluate(f"pay(42, {{ pin: {pin} }})")["error"] == "TypeError"
    assert till.seen == []

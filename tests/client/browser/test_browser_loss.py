"""Many payments through a network that loses half of all attempts, under the real extension."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page

from ..faulty_network import Fault, FaultyNetwork
from ..flask_till import FlaskTill
from ..payment_server import Running, Till
from .pages import Customer, Shop

PAYMENTS = 40
SHARES = {
    Fault.LOSE_REQUEST: 0.20,
    Fault.LOSE_ANSWER: 0.20,
    Fault.HOLD_ANSWER: 0.05,
    Fault.HOLD_REQUEST: 0.05,
    Fault.NONE: 0.50,
}

#: Six at once are what a browser lets through to one host.
PAY_ALL = """async (payments) => {
    const headers = { "Content-Type": "application/json" };
    const options = { attempts: 22, deadline: 100_000, timeout: 1_000 };
    const amounts = Array.from({ length: payments }, (_, index) => index + 1);
    const told = [];
    const payOneByOne = async () => {
        for (let amount; (amount = amounts.shift()); ) {
            const payment = { amount, currency: "eur" };
            told.push(await pay(payment, { path: "/v1/payment_intents", headers, options, pin: `order-${amount}` }));
        }
    };
    await Promise.all(Array.from({ length: 6 }, payOneByOne));
    return told;
}"""


def test_each_payment_is_made_once_and_answered_though_half_of_all_attempts_fail(
    chromium: Browser, running: Running, tmp_path: Path
) -> None:
    till = FlaskTill(tmp_path)
    running.app = Shop(till.app)
    with_faults = faults()
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(150_000)
    with FaultyNetwork(running.address, lambda: next(with_faults) if page_is_loaded else Fault.NONE) as network:
        page_is_loaded = False
        page.goto(network.url)
        page_is_loaded = True

        told = page.evaluate(PAY_ALL, PAYMENTS)
        unsettled = page.evaluate("new idempotency.PendingKeys().unfinished()")
        context.close()

    answered = [json.loads(payment["text"])["amount"] for payment in told]
    assert Counter(till.charges) == Counter(answered) == Counter(range(1, PAYMENTS + 1))
    assert unsettled == []
    # The network did its worst, or nothing was shown.
    assert set(network.attempts) == set(SHARES)


def faults() -> Iterator[Fault]:
    chance = random.Random(8)
    while True:
        yield from chance.choices(list(SHARES), list(SHARES.values()))


def test_without_keys_the_same_retry_pays_twice(customer: Customer, page: Page, till: Till) -> None:
    customer.fail(*[Fault.LOSE_ANSWER] * 2)

    page.evaluate(
        """async () => {
            const send = () => fetch("/payments", { method: "POST", body: "42" });
            await send().catch(send).catch(send);
        }"""
    )

    assert len(till.charges) > 1

"""The rules behind the browser's client, each for itself, by the engine that will run them."""

import re
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from .pages import Customer


@pytest.fixture
def rules(customer: Customer) -> Page:
    return customer.open_tab()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("Tue, 01 Jan 2030 00:00:30 GMT", 30),
        ("Tuesday, 01-Jan-30 00:00:30 GMT", 30),
        ("Tue Jan  1 00:00:30 2030", 30),
        ("Mon, 31 Dec 2029 23:59:00 GMT", 0),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("", 0),
        (None, 0),
        ("5, 6", 0),
        ("2030-01-01T00:00:30Z", 0),
        ("Tue, 01 Jan 99999999999 00:00:00 GMT", 0),
        ("٣", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(rules: Page, value: str | None, seconds: float) -> None:
    rules.clock.install(time="2029-12-31T23:00:00Z")
    rules.clock.pause_at("2030-01-01T00:00:00Z")

    assert rules.evaluate("(value) => idempotency.retryAfter(value)", value) == seconds * 1000


def test_a_date_is_read_alike_in_every_time_zone(chromium: Browser, customer: Customer) -> None:
    context = chromium.new_context(timezone_id="Pacific/Auckland")
    page = context.new_page()
    page.goto(customer.network.url)

    told = page.evaluate("idempotency.retryAfter('Tue Jan  1 00:00:30 2030', 'Tue, 01 Jan 2030 00:00:00 GMT')")
    context.close()

    assert told == 30_000


def test_retry_after_as_a_date_goes_by_the_servers_clock(rules: Page) -> None:
    date, retry_after = "Tue, 01 Jan 2030 12:00:00 GMT", "Tue, 01 Jan 2030 12:00:05 GMT"

    assert rules.evaluate("([value, date]) => idempotency.retryAfter(value, date)", [retry_after, date]) == 5_000


def test_the_backoff_grows_twofold_up_to_its_limit(rules: Page) -> None:
    waits = rules.evaluate(
        """() => {
            Math.random = () => 1;
            const policy = idempotency.retryPolicy({ attempts: 7, backoff: 500, backoffMax: 4_000 });
            return [1, 2, 3, 4, 5, 6, 7].map((number) => idempotency.nextWait(policy, { number, elapsed: 0 }));
        }"""
    )

    assert waits == [500, 1_000, 2_000, 4_000, 4_000, 4_000, None]


def test_without_options_a_request_is_sent_20_times_from_a_tenth_of_a_second_up_to_two_apart(rules: Page) -> None:
    policy, waits = rules.evaluate(
        """() => {
            Math.random = () => 1;
            const policy = idempotency.retryPolicy();
            const numbers = Array.from({ length: 20 }, (_, index) => index + 1);
            return [policy, numbers.map((number) => idempotency.nextWait(policy, { number, elapsed: 0 }))];
        }"""
    )

    assert waits == [100, 200, 400, 800, 1_600, *[2_000] * 14, None]
    assert policy["deadline"] == 60_000


def test_the_jitter_is_full(rules: Page) -> None:
    waits = rules.evaluate(
        """() => {
            const policy = idempotency.retryPolicy({ backoff: 300 });
            return Array.from({ length: 30 }, () => idempotency.nextWait(policy, { number: 1, elapsed: 0 }));
        }"""
    )

    # Of 30 uniform draws, none in a given third happens once in 200,000 runs.
    assert {int(wait / 100) for wait in waits} == {0, 1, 2}


@pytest.mark.parametrize(
    ("about", "wait"),
    [
        ({"number": 1, "elapsed": 0, "asked": 5_000}, 5_000),
        ({"number": 1, "elapsed": 0, "asked": 20}, 100),
        ({"number": 1, "elapsed": 54_999, "asked": 5_000}, 5_000),
        ({"number": 1, "elapsed": 55_000, "asked": 5_000}, None),
        ({"number": 1, "elapsed": 59_900}, None),
        ({"number": 20, "elapsed": 0}, None),
    ],
)
def test_what_the_server_asks_for_is_the_least_wait_within_the_deadline(
    rules: Page, about: dict[str, Any], wait: float | None
) -> None:
    told = rules.evaluate(
        "(about) => { Math.random = () => 1; return idempotency.nextWait(idempotency.retryPolicy(), about); }", about
    )

    assert told == wait


def test_payloads_that_differ_have_digests_that_differ(rules: Page) -> None:
    digests = rules.evaluate(
        """() => {
            const { digest } = idempotency;
            const amounts = Array.from({ length: 20_000 }, (_, amount) => digest(JSON.stringify({ amount })));
            const bytes = new Uint8Array(3);
            const parts = [digest(), digest(""), digest("", ""), digest("ab", "c"), digest("a", "bc"), digest("abc")];
            return [...amounts, ...parts, digest(bytes), digest(bytes.slice(1)), digest("\\u0100"), digest("Ā", "")];
        }"""
    )

    # "\\u0100" and "Ā" are one text.
    assert len(set(digests)) == len(digests)
    assert all(len(told) == 16 for told in digests)


def test_a_digest_is_the_same_for_ever(rules: Page) -> None:
    # A page that was updated between two attempts must find the key again.
    assert (
        rules.evaluate("idempotency.digest('POST', 'https://till/payments', '{\"amount\":42}')") == "daa732695b06cde7"
    )


def test_the_types_describe_what_the_module_exports(rules: Page) -> None:
    types = files("flask_idempotency.client").joinpath("browser/idempotency.d.ts").read_text()
    described = re.findall(r"^export (?:function|const|class) (\w+)", types, re.MULTILINE)

    assert sorted(described) == sorted(rules.evaluate("Object.keys(idempotency)"))

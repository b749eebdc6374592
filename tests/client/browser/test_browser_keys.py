"""Which key a request gets, and which requests cannot have one."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page

from ..payment_server import Canned, Till
from .chromium import INSECURE_HOST
from .pages import Customer

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_each_logical_request_has_a_key_of_its_own(page: Page, till: Till) -> None:
    page.evaluate("Promise.all([pay(1), pay(1), pay(1)])")

    assert len(till.charges) == len(set(till.keys)) == 3
    assert all(key and UUID4.fullmatch(key) for key in till.keys)


def test_outside_secure_contexts_keys_are_random_uuids_too(customer: Customer, till: Till) -> None:
    page = customer.open_tab(host=INSECURE_HOST)
    assert page.evaluate("[isSecureContext, typeof crypto.randomUUID]") == [
        False,
        "undefined",
    ]

    made = page.evaluate("Array.from({ length: 1000 }, () => idempotency.newKey())")
    page.evaluate("pay(1, { pin: 'order-17' })")

    assert len(set(made)) == 1000
    assert all(UUID4.fullmatch(key) for key in [*made, till.keys[0]])


@pytest.mark.parametrize(
    "init",
    [
        "{ method: 'POST', headers: { 'idempotency-key': 'order-17' } }",
        "{ method: 'POST', headers: [['Idempotency-Key', 'order-17']] }",
        "{ method: 'POST', headers: new Headers({ 'Idempotency-Key': 'order-17' }) }",
        "{ method: 'PUT', headers: { 'Idempotency-Key': 'order-17' } }",
    ],
)
def test_a_key_that_the_caller_gave_wins(page: Page, till: Till, init: str) -> None:
    till.canned.append(Canned(503))

    page.evaluate(f"pay(1, {init})")

    assert till.keys == ["order-17", "order-17"]


def test_a_request_object_keeps_its_key_its_method_and_its_body(page: Page, till: Till) -> None:
    till.canned.extend([Canned(503), Canned(503)])
    page.evaluate(
        """() => {
            const headers = { "Idempotency-Key": "order-17" };
            const request = new Request("/payments", { method: "PATCH", body: "42", headers });
            return idempotency.createFetch({ backoff: 1 })(request);
        }"""
    )

    assert [(seen.method, seen.key, seen.body) for seen in till.seen] == [("PATCH", "order-17", b"42")] * 3


def test_a_key_can_be_sent_in_the_quoted_form_under_another_header(page: Page, till: Till) -> None:
    page.evaluate("pay(1, { options: { quoted: true } })")
    page.evaluate("pay(2, { options: { header: 'X-Key' } })")

    quoted, other = till.keys
    assert quoted is not None
    assert UUID4.fullmatch(quoted.removeprefix('"').removesuffix('"'))
    assert quoted.startswith('"')
    assert other is None


def test_a_key_and_a_pin_at_once_are_refused(page: Page, till: Till) -> None:
    told = page.evaluate("pay(1, { pin: 'order-17', headers: { 'Idempotency-Key': 'mine' } })")

    assert told["error"] == "TypeError"
    assert till.seen == []


def test_a_request_whose_key_the_browser_would_drop_is_refused_before_anything_is_sent(page: Page, till: Till) -> None:
    told = page.evaluate("pay(1, { mode: 'no-cors', pin: 'order-17' })")

    assert told["error"] == "TypeError"
    assert "no-cors" in told["message"]
    assert till.seen == []
    assert page.evaluate("new idempotency.PendingKeys().unfinished()") == []


@pytest.mark.parametrize(
    ("body", "bytes_"),
    [
        ("'text'", b"text"),
        ("new Blob(['bl', 'ob'])", b"blob"),
        ("new TextEncoder().encode('bytes')", b"bytes"),
        ("new TextEncoder().encode('buffer').buffer", b"buffer"),
        ("new URLSearchParams({ amount: 42 })", b"amount=42"),
        ("null", b""),
    ],
)
def test_every_body_that_can_be_repeated_is_the_same_on_each_attempt(
    page: Page, till: Till, body: str, bytes_: bytes
) -> None:
    till.canned.extend([Canned(503), Canned(503)])

    page.evaluate(f"pay(1, {{ body: {body} }})")

    assert [seen.body for seen in till.seen] == [bytes_] * 3


def test_a_form_with_a_file_is_repeated_byte_for_byte(page: Page, till: Till) -> None:
    till.canned.extend([Canned(503), Canned(503)])
    page.evaluate(
        """() => {
            const body = new FormData();
            body.set("amount", "42");
            body.set("receipt", new File(["scan".repeat(100_000)], "receipt.png", { type: "image/png" }));
            return pay(1, { body });
        }"""
    )

    bodies = [seen.body for seen in till.seen]
    assert len(bodies) == 3
    assert len(set(bodies)) == 1
    assert b"scan" * 100_000 in bodies[0]


def test_what_the_caller_changes_between_two_attempts_is_not_sent(page: Page, till: Till) -> None:
    till.canned.append(Canned(503, (("Retry-After", "0"),)))
    page.evaluate(
        """() => {
            const body = new TextEncoder().encode("42");
            const paid = pay(1, { body });
            body.set([57, 57]);
            return paid;
        }"""
    )

    assert [seen.body for seen in till.seen] == [b"42", b"42"]


@pytest.mark.parametrize(
    "send",
    [
        "pay(1, { body: new Blob(['42']).stream(), duplex: 'half' })",
        "pay(1, { body: (async function* () { yield '42'; })(), duplex: 'half' })",
        "idempotency.idempotentFetch(used, {}).catch((error) => ({ error: error.name, message: error.message }))",
    ],
)
def test_a_body_that_can_be_read_only_once_is_refused_before_anything_is_sent(
    page: Page, till: Till, send: str
) -> None:
    page.evaluate(
        """async () => {
            window.used = new Request("/payments", { method: "POST", body: "42" });
            await used.text();
        }"""
    )
    told: dict[str, Any] = page.evaluate(f"() => {send}")

    assert told["error"] == "UnrepeatableBody"
    assert "only once" in told["message"]
    assert till.seen == []


def test_one_that_needs_no_key_may_have_a_body_that_is_read_once(page: Page) -> None:
    given = page.evaluate(
        """async () => {
            const seen = [];
            const fetch = async (input, init) => {
                seen.push([input, init]);
                return new Response(null, { status: 503 });
            };
            const body = new Blob(["42"]).stream();
            const init = { method: "PUT", body, duplex: "half" };
            const response = await idempotency.createFetch({ fetch })("/payments", init);
            return [response.status, seen.length, seen[0][1].body === body];
        }"""
    )

    assert given == [503, 1, True]


@pytest.mark.parametrize(
    "options",
    [
        "{ retries: 3 }",
        "{ attempts: 0 }",
        "{ attempts: 1.5 }",
        "{ deadline: Infinity }",
        "{ backoff: -1 }",
        "{ timeout: '10s' }",
        "{ methods: 'POST' }",
    ],
)
def test_a_misspelt_or_senseless_option_throws_where_it_is_written(page: Page, options: str) -> None:
    with pytest.raises(Exception, match=r"TypeError|RangeError"):
        page.evaluate(f"() => {{ idempotency.createFetch({options}); }}")

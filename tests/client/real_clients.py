"""Clients as people write them, each told to make the same payments: ours, and those that others made."""

import asyncio
import threading
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import aiohttp
import aiohttp_retry
import httpx
import requests
import stamina
import stripe
import urllib3
from requests.adapters import HTTPAdapter

from flask_idempotency.client import (
    AsyncIdempotencyTransport,
    IdempotencyAdapter,
    IdempotencyTransport,
    RetryPolicy,
)

PATH = "/v1/payment_intents"
#: Answers that the clients of others are told to repeat, as their users would.
AGAIN = (409, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """Payments to make at `url`, by so many workers at once. `timeout`: seconds that an attempt waits.

    Our clients try as often as they do without arguments, and the clients of others `attempts` times.
    """

    url: str
    amounts: Sequence[int]
    workers: int
    timeout: float
    attempts: int = RetryPolicy().attempts


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the client heard: which payment it was, and of how much."""

    id: str
    amount: int


Run = Callable[[Errand], list[Receipt]]


def by_threads(errand: Errand, connect: Callable[[], Callable[[int], Receipt]]) -> list[Receipt]:
    """Make the payments by threads, each with a connection of its own."""
    local = threading.local()

    def pay(amount: int) -> Receipt:
        if not hasattr(local, "pay"):
            local.pay = connect()
        done: Receipt = local.pay(amount)
        return done

    with ThreadPoolExecutor(errand.workers) as pool:
        return list(pool.map(pay, errand.amounts))


async def by_tasks(errand: Errand, pay: Callable[[int], Awaitable[Receipt]]) -> list[Receipt]:
    """Make the payments by tasks of one event loop."""
    seats = asyncio.Semaphore(errand.workers)

    async def seated(amount: int) -> Receipt:
        async with seats:
            return await pay(amount)

    return list(await asyncio.gather(*map(seated, errand.amounts)))


def order(amount: int) -> dict[str, Any]:
    return {"amount": amount, "currency": "eur"}


def our_requests(errand: Errand) -> list[Receipt]:
    """requests with `IdempotencyAdapter`."""

    def connect() -> Callable[[int], Receipt]:
        session = requests.Session()
        session.mount("http://", IdempotencyAdapter(timeout=errand.timeout))
        return lambda amount: receipt(session.post(errand.url + PATH, json=order(amount)))

    return by_threads(errand, connect)


def our_httpx(errand: Errand) -> list[Receipt]:
    """httpx with `IdempotencyTransport`."""
    with httpx.Client(transport=IdempotencyTransport(), timeout=errand.timeout) as client:
        return by_threads(errand, lambda: lambda amount: receipt(client.post(errand.url + PATH, json=order(amount))))


def our_async_httpx(errand: Errand) -> list[Receipt]:
    """httpx under asyncio with `AsyncIdempotencyTransport`."""

    async def run() -> list[Receipt]:
        async with httpx.AsyncClient(transport=AsyncIdempotencyTransport(), timeout=errand.timeout) as client:

            async def pay(amount: int) -> Receipt:
                return receipt(await client.post(errand.url + PATH, json=order(amount)))

            return await by_tasks(errand, pay)

    return asyncio.run(run())


def stripes_own(errand: Errand) -> list[Receipt]:
    """Stripe's official package, with its own keys and rules for retries."""

    def connect() -> Callable[[int], Receipt]:
        client = stripe.StripeClient(
            "sk_test_only",
            base_addresses={"api": errand.url},
            http_client=stripe.RequestsClient(timeout=errand.timeout),
            max_network_retries=errand.attempts - 1,
        )

        def pay(amount: int) -> Receipt:
            intent = client.v1.payment_intents.create({"amount": amount, "currency": "eur"})
            return Receipt(intent.id, intent.amount)

        return pay

    return by_threads(errand, connect)


def requests_with_urllib3(errand: Errand) -> list[Receipt]:
    """requests with urllib3's `Retry`, and a key that the caller makes."""
    return by_threads(errand, lambda: urllib3_payer(errand, lambda: {"Idempotency-Key": str(uuid.uuid4())}))


def requests_without_keys(errand: Errand) -> list[Receipt]:
    """The same without keys: what all of this is against."""
    return by_threads(errand, lambda: urllib3_payer(errand, dict))


def urllib3_payer(errand: Errand, headers: Callable[[], dict[str, str]]) -> Callable[[int], Receipt]:
    retry = urllib3.Retry(
        errand.attempts - 1,
        allowed_methods=None,
        status_forcelist=AGAIN,
        backoff_factor=0.05,
        backoff_jitter=0.05,
        backoff_max=1.0,
        raise_on_status=False,
    )
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=retry))

    def pay(amount: int) -> Receipt:
        url = errand.url + PATH
        return receipt(session.post(url, json=order(amount), headers=headers(), timeout=errand.timeout))

    return pay


def httpx_with_stamina(errand: Errand) -> list[Receipt]:
    """httpx with stamina, and a key that the caller makes."""

    def unanswered(error: Exception) -> bool:
        if isinstance(error, httpx.HTTPStatusError):
            return error.response.status_code in AGAIN
        return isinstance(error, httpx.TransportError)

    with httpx.Client(timeout=errand.timeout) as client:

        @stamina.retry(
            on=unanswered, attempts=errand.attempts, timeout=None, wait_initial=0.05, wait_max=1.0, wait_jitter=0.05
        )
        def send(amount: int, key: str) -> httpx.Response:
            headers = {"Idempotency-Key": key}
            return client.post(errand.url + PATH, json=order(amount), headers=headers).raise_for_status()

        return by_threads(errand, lambda: lambda amount: receipt(send(amount, str(uuid.uuid4()))))


def aiohttp_with_retry(errand: Errand) -> list[Receipt]:
    """aiohttp with aiohttp-retry, and a key that the caller makes."""
    retry = aiohttp_retry.JitterRetry(
        attempts=errand.attempts,
        start_timeout=0.05,
        max_timeout=1.0,
        random_interval_size=0.05,
        statuses=set(AGAIN),
        exceptions={aiohttp.ClientError, asyncio.TimeoutError},
    )

    async def run() -> list[Receipt]:
        timeout = aiohttp.ClientTimeout(total=errand.timeout)
        async with aiohttp_retry.RetryClient(retry_options=retry, timeout=timeout) as client:

            async def pay(amount: int) -> Receipt:
                headers = {"Idempotency-Key": str(uuid.uuid4())}
                async with client.post(errand.url + PATH, json=order(amount), headers=headers) as answer:
                    assert answer.status == 200, answer.status
                    made = await answer.json()
                    return Receipt(made["id"], made["amount"])

            return await by_tasks(errand, pay)

    return asyncio.run(run())


def receipt(answer: requests.Response | httpx.Response) -> Receipt:
    assert answer.status_code == 200, answer.text
    made = answer.json()
    return Receipt(made["id"], made["amount"])


OURS: tuple[Run, ...] = (our_requests, our_httpx, our_async_httpx)
OTHERS: tuple[Run, ...] = (stripes_own, requests_with_urllib3, httpx_with_stamina, aiohttp_with_retry)

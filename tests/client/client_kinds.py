"""One face for our three clients, so that one suite tests the rules that they share."""

import asyncio
from typing import Any

import httpx
import requests

from flask_idempotency.client import (
    AsyncIdempotencyTransport,
    IdempotencyAdapter,
    IdempotencyTransport,
    RetryPolicy,
)

#: Waits of milliseconds: what is tested is whether and how often, not how long.
QUICK = RetryPolicy(attempts=4, deadline=20.0, backoff=0.001, backoff_max=0.002)

#: What a client raises where the network is at fault.
NETWORK_ERRORS: tuple[Any, ...] = requests.RequestException, httpx.TransportError

#: Seconds that an attempt waits: for ever, as far as an answer that will come is concerned.
TIMEOUT = 20.0


class Requests:
    """requests with our adapter."""

    def __init__(self, policy: RetryPolicy, *, timeout: float = TIMEOUT) -> None:
        self.session = requests.Session()
        self.session.mount("http://", IdempotencyAdapter(policy=policy, timeout=timeout))

    def send(self, method: str, url: str, **options: Any) -> requests.Response:
        if "content" in options:
            options["data"] = options.pop("content")
        options["allow_redirects"] = options.pop("follow_redirects", False)
        return self.session.request(method, url, **options)

    def again(self, request: Any) -> requests.Response:
        return self.session.send(request)

    def close(self) -> None:
        self.session.close()


class Httpx:
    """httpx with our transport."""

    def __init__(self, policy: RetryPolicy, *, timeout: float = TIMEOUT) -> None:
        self.client = httpx.Client(transport=IdempotencyTransport(policy=policy), timeout=timeout)

    def send(self, method: str, url: str, **options: Any) -> httpx.Response:
        return self.client.request(method, url, **options)

    def again(self, request: Any) -> httpx.Response:
        return self.client.send(request)

    def close(self) -> None:
        self.client.close()


class AsyncHttpx:
    """httpx under asyncio with our transport."""

    def __init__(self, policy: RetryPolicy, *, timeout: float = TIMEOUT) -> None:
        self.runner = asyncio.Runner()
        self.client = httpx.AsyncClient(transport=AsyncIdempotencyTransport(policy=policy), timeout=timeout)

    def send(self, method: str, url: str, **options: Any) -> httpx.Response:
        return self.runner.run(self.client.request(method, url, **options))

    def again(self, request: Any) -> httpx.Response:
        return self.runner.run(self.client.send(request))

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()


Client = Requests | Httpx | AsyncHttpx
CLIENTS = [Requests, Httpx, AsyncHttpx]

"""The example shop on real servers, and the clients that ask them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.servers.launch import serve

#: Seconds that anything here may take before it counts as broken.
PATIENCE = 60.0

#: Seconds for which the claim of a dead process stands.
LEASE = 1.0

_NOT_NOW = {409, 503}

#: The servers stand for one, as behind a load balancer: the host is part of what a request asks for, their ports are
#: their own.
_HOST = "shop.test"


@contextmanager
def serving(folder: Path, *, records: str = "idempotency.db", dies: str | None = None) -> Iterator[str]:
    """The URL of a server of the shop whose files are in `folder`. It kills itself at the boundary `dies`."""
    env = {
        "FLASK_SHOP_DATABASE": str(folder / "shop.db"),
        "FLASK_SHOP_PAGE": "false",
        "FLASK_IDEMPOTENCY_STORE_URL": f"sqlite:///{folder / records}",
        "FLASK_IDEMPOTENCY_LEASE": str(LEASE),
        "SHOP_LEDGER": str(folder / "ledger"),
    }
    if dies is not None:
        env["SHOP_DIES"] = dies
    with serve("flask run", "tests.example.dying_shop:app", env=env) as server:
        yield server.url


def post(url: str, key: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(url, json=body, headers={"Host": _HOST, "Idempotency-Key": key}, timeout=PATIENCE)


def post_until_done(url: str, key: str, body: dict[str, Any]) -> httpx.Response:
    """What a client hears that asks again while an earlier attempt is, or seems to be, under way."""
    ends = time.monotonic() + PATIENCE
    while True:
        answer = post(url, key, body)
        if answer.status_code not in _NOT_NOW:
            return answer
        assert time.monotonic() < ends, answer.text
        time.sleep(LEASE / 10)


def get(url: str) -> Any:
    return httpx.get(url, timeout=PATIENCE).raise_for_status().json()

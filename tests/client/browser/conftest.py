"""A customer with a real browser, before a till behind a network that fails on demand."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from playwright.sync_api import Browser, Page

from ..payment_server import Running, Till
from .chromium import running_chromium
from .pages import Customer, Shop


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    # Not for the whole session: Playwright's loop counts as running for as long as it is open, and asyncio wants none.
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def server(running: Running, till: Till) -> Running:
    running.app = Shop(till)
    return running


@pytest.fixture
def customer(server: Running, chromium: Browser) -> Iterator[Customer]:
    context = chromium.new_context()
    customer = Customer(server, context)
    with closing(customer.network):
        yield customer
        # First: a held answer is let go once its client hangs up.
        context.close()


@pytest.fixture
def page(customer: Customer) -> Page:
    return customer.open_tab()

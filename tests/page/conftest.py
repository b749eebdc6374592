"""The page of the example shop before a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.client.browser.chromium import running_chromium

from .reader import Reader
from .shop_process import running_shop


@pytest.fixture(scope="package")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_shop(Path(tmp_path_factory.mktemp("shop"))) as url:
        yield url


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    # Not for the whole session: Playwright's loop counts as running for as long as it is open.
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def reader(shop: str, chromium: Browser) -> Iterator[Reader]:
    """Whatever a test does, the page breaks nothing and asks no other host."""
    context = chromium.new_context(reduced_motion="reduce")
    try:
        reader = Reader(shop, context)
        yield reader
        assert reader.errors == []
        assert [url for url in reader.asked if not url.startswith((f"{shop}/", "data:"))] == []
    finally:
        context.close()

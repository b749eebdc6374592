"""A real, headless Chromium for tests, on the machine that has one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from .needs import lacks

#: A name of this machine that browsers do not trust as they trust 127.0.0.1: a page from there is no secure context.
INSECURE_HOST = "till.test"

_SWITCHES = (
    # Only the tests' own pages are opened, and root, as in a container, has no sandbox.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    # Nothing but the tests' own server is to be asked for anything.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {INSECURE_HOST} 127.0.0.1",
)


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Chromium until the block ends. Where there is none, the test is skipped; under CI it fails instead."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        lacks("Chromium, which is not on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_SWITCHES, timeout=60_000)
        try:
            yield browser
        finally:
            browser.close()

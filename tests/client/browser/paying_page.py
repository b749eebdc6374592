"""A page in a real browser that makes payments with `idempotency.js`, as often as that tries without arguments."""

from importlib.resources import files
from typing import Any

from playwright.sync_api import Page, Route

from ..real_clients import PATH, Errand, Receipt
from .chromium import running_chromium

#: What a browser lets through to one host at once: others would wait for their turn, and their time-outs would not.
_MOST_WORKERS = 6

_PAY_ALL = """async ({ amounts, path, timeout, workers }) => {
    const { createFetch } = await import("/idempotency.js");
    const pay = createFetch({ timeout });
    const receipts = [];
    const left = amounts.entries();
    const work = async () => {
        for (const [index, amount] of left) {
            const body = JSON.stringify({ amount, currency: "eur" });
            const headers = { "Content-Type": "application/json" };
            const response = await pay(path, { method: "POST", headers, body, pin: `order-${amount}` });
            receipts[index] = await response.json();
        }
    };
    await Promise.all(Array.from({ length: workers }, work));
    return receipts;
}"""


def our_browser(errand: Errand) -> list[Receipt]:
    """fetch of `idempotency.js`, in Chromium."""
    with running_chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(0)
        _serve(page, errand.url)
        page.goto(errand.url)
        made: list[dict[str, Any]] = page.evaluate(
            _PAY_ALL,
            {
                "amounts": list(errand.amounts),
                "path": PATH,
                "timeout": errand.timeout * 1000,
                "workers": min(errand.workers, _MOST_WORKERS),
            },
        )
    return [Receipt(receipt["id"], receipt["amount"]) for receipt in made]


def _serve(page: Page, url: str) -> None:
    """Let the page be there without a request, so that the network meets nothing but payments."""
    module = files("flask_idempotency.client").joinpath("browser/idempotency.js").read_bytes()

    def fulfil(route: Route) -> None:
        if route.request.url == f"{url}/idempotency.js":
            route.fulfill(content_type="text/javascript", body=module)
        else:
            route.fulfill(content_type="text/html", body='<!doctype html><link rel="icon" href="data:,">')

    for path in ("/", "/idempotency.js"):
        page.route(f"{url}{path}", fulfil)

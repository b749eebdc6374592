"""Somebody who looks at the page, and chooses, pays and reads there."""

import json
import urllib.request
from typing import Any

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, expect

from .shop_process import PATIENCE

KEYED, UNKEYED = "With a key", "Without a key"


class Reader:
    """One tab with the page. It takes note of whatever the page does that nobody sees."""

    def __init__(self, shop: str, context: BrowserContext) -> None:
        self.shop = shop
        self.context = context
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE * 1000)
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.cut: list[str] = []
        self.loads = 0
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfailed", self._failed)
        self.page.on("load", lambda _: setattr(self, "loads", self.loads + 1))
        self.page.goto(shop)

    def choose(self, failure: str) -> None:
        self.page.get_by_role("radio", name=failure, exact=True).check()

    def pay(self) -> None:
        """Press the button, and wait for the end of the payment."""
        before = self.payments()
        self.page.get_by_role("button", name="Pay $20").click()
        self.wait_for_payment(before + 1)

    def wait_for_payment(self, number: int) -> None:
        expect(self.history).to_have_count(number, timeout=PATIENCE * 1000)

    @property
    def history(self) -> Any:
        return self.page.get_by_role("region", name="All payments so far").locator("tbody tr")

    @property
    def status(self) -> str:
        return self.page.get_by_role("status").inner_text()

    def payments(self) -> int:
        return int(self.history.count())

    def verdict(self, side: str) -> str:
        return self.page.get_by_role("region", name=side, exact=True).locator(".verdict").inner_text()

    def timeline(self, side: str) -> list[str]:
        """What the timeline of a side says, without the times."""
        lines = self.page.get_by_role("list", name=f"What happened {side.lower()}").get_by_role("listitem")
        return [" ".join(line.split()) for line in lines.locator("p").all_text_contents()]

    def keys(self, side: str) -> list[str]:
        """The keys that the attempts of a side carried, as the timeline shows them."""
        return self.page.get_by_role("region", name=side, exact=True).locator("code").all_inner_texts()

    def moved(self, side: str) -> int:
        """How often money moved in the last payment: not what the page says, but the books of the shop."""
        customers = self.page.evaluate("JSON.parse(sessionStorage.getItem('run')).accounts")
        customer = customers[{KEYED: "keyed", UNKEYED: "unkeyed"}[side]]["customer"]
        with urllib.request.urlopen(f"{self.shop}/demo/shop/api/transfers", timeout=PATIENCE) as answer:
            return sum(transfer["from"] == customer for transfer in json.load(answer))

    def _console(self, message: ConsoleMessage) -> None:
        # That a request was cut or answered with a 409 is what the page is about, and the browser says so by itself.
        expected = message.text.startswith("Failed to load resource") and "/demo/shop/" in message.location["url"]
        if message.type in ("error", "warning") and not expected:
            self.errors.append(f"{message.type}: {message.text}")

    def _failed(self, request: Request) -> None:
        # What the page gives up itself, by its time-out or a reload, is aborted and not cut.
        if "/demo/shop/" in request.url and request.failure in ("net::ERR_EMPTY_RESPONSE", "net::ERR_CONNECTION_RESET"):
            self.cut.append(request.failure)

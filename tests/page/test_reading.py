"""The page is for everybody: by keyboard, by ear, by day and by night, on a phone."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, expect

from .reader import KEYED, UNKEYED, Reader


def test_a_payment_needs_no_mouse(reader: Reader) -> None:
    page = reader.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("radio", name="Lost answer")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("radio", name="Lost request")).to_be_checked()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Pay $20")).to_be_focused()
    page.keyboard.press("Enter")
    reader.wait_for_payment(1)
    assert "Server: Hears nothing: the request is lost" in reader.timeline(KEYED)
    expect(page.get_by_role("button", name="Pay $20")).to_be_focused()


def test_the_focus_is_to_be_seen(reader: Reader) -> None:
    for _ in range(2):
        reader.page.keyboard.press("Tab")
        seen = reader.page.evaluate(
            "getComputedStyle(document.activeElement.closest('label') ?? document.activeElement).outlineStyle"
        )
        assert seen == "solid"


def test_enter_on_a_choice_pays(reader: Reader) -> None:
    reader.page.get_by_role("radio", name="Lost answer").focus()
    reader.page.keyboard.press("Enter")
    reader.wait_for_payment(1)
    assert (reader.moved(KEYED), reader.moved(UNKEYED)) == (1, 2)


def test_everything_has_a_name_for_those_who_do_not_see_it(reader: Reader) -> None:
    reader.choose("Lost answer")
    reader.pay()
    page = reader.page
    group = page.get_by_role("group", name="What goes wrong?")
    assert group.get_by_role("radio").count() == 7
    for radio in group.get_by_role("radio").all():
        expect(radio).to_have_accessible_name(re.compile(r"\S"))
        expect(radio).to_have_accessible_description(re.compile(r"\S"))
    for name in (KEYED, UNKEYED, "All payments so far"):
        expect(page.get_by_role("region", name=name, exact=True)).to_be_visible()
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
    # Whose deed a line tells of stands to its left or right; those who listen hear it.
    assert all(line.startswith(("Browser: ", "Server: ")) for line in reader.timeline(KEYED))


def test_the_outcome_is_announced_once(reader: Reader) -> None:
    reader.page.evaluate(
        """() => {
          window.said = [];
          const status = document.querySelector("[role=status]");
          new MutationObserver(() => said.push(status.textContent)).observe(status, { childList: true, subtree: true });
        }"""
    )
    reader.choose("Lost answer")
    reader.pay()
    said = reader.page.evaluate("said")
    assert len(said) == 2
    assert said[0] == "Paying…"
    assert said[1].startswith("With a key the money moved once, without one twice.")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_to_object_to(shop: str, chromium: Browser, scheme: str, width: int) -> None:
    context = chromium.new_context(
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
        viewport={"width": width, "height": 800},
    )
    try:
        reader = Reader(shop, context)
        objections = Axe().run(reader.page)
        assert objections.violations_count == 0, objections.generate_report()
        reader.choose("Lost answer")
        reader.pay()
        objections = Axe().run(reader.page)
        assert objections.violations_count == 0, objections.generate_report()
    finally:
        context.close()


def test_the_colours_follow_the_readers_wish(shop: str, chromium: Browser) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        context = chromium.new_context(color_scheme="dark" if scheme == "dark" else "light")
        page = Reader(shop, context).page
        colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        brightness[scheme] = sum(int(part) for part in re.findall(r"\d+", colour)[:3])
        context.close()
    assert brightness["light"] > 600 > 150 > brightness["dark"]


def test_a_phone_shows_the_whole_width(reader: Reader) -> None:
    reader.page.set_viewport_size({"width": 320, "height": 640})
    reader.choose("Lost answer")
    reader.pay()
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= 320


def test_the_page_may_run_only_its_own_files(reader: Reader) -> None:
    with reader.page.expect_response(f"{reader.shop}/") as answer:
        reader.page.reload()
    policy = answer.value.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy

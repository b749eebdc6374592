"""Each failure in a real browser: with a key the money moves once."""

import pytest

from .reader import KEYED, UNKEYED, Reader

ONCE, TWICE = "✓ $20 moved: once", "✕ $40 moved: twice"

#: The failure; whether it makes a payment without a key move twice; and what tells that it has struck and was met.
FAILURES = [
    ("Nothing", False, ["Browser: Paid"]),
    ("Lost request", False, ["Server: Hears nothing: the request is lost", "Browser: Paid"]),
    ("Lost answer", True, ["Server: Answers 201, which is lost", "Server: Same key: repeats the kept answer"]),
    ("Slow server", True, ["Browser: No answer in 0.8 s; tries again", "Server: Answers 201; nobody listens"]),
    ("Crashed worker", True, ["Server: The worker dies", "Server: Finds the answer beside the money; nothing moves"]),
    ("Double click", True, ["Server: Same key: its claim still stands", "Browser: Paid"]),
    ("Reload in mid-payment", True, ["Browser: Page reloaded; the key is still here", "Server: Answers 201"]),
]

CUT = {"Lost request", "Lost answer", "Crashed worker"}


@pytest.mark.parametrize(("failure", "harms", "told"), FAILURES, ids=[name for name, *_ in FAILURES])
def test_with_a_key_money_moves_once_and_without_one_as_often_as_the_failure_makes_it(
    reader: Reader, failure: str, harms: bool, told: list[str]
) -> None:
    reader.choose(failure)
    reader.pay()
    assert (reader.moved(KEYED), reader.moved(UNKEYED)) == (1, 2 if harms else 1)
    assert (reader.verdict(KEYED), reader.verdict(UNKEYED)) == (ONCE, TWICE if harms else ONCE)
    timeline = reader.timeline(KEYED)
    assert set(told) <= set(timeline), timeline
    assert timeline.count("Server: $20 moved") == 1
    assert reader.timeline(UNKEYED).count("Server: $20 moved") == (2 if harms else 1)
    assert ("Server: Another payment, it seems: runs it" in reader.timeline(UNKEYED)) == harms
    assert len(set(reader.keys(KEYED))) == 1, "one key, on every attempt"
    said = "With a key the money moved once, without one twice." if harms else "On both sides, the money moved once."
    assert reader.status.startswith(said)
    # A connection that ends without an answer, one on each side.
    assert len(reader.cut) == (2 if failure in CUT else 0), reader.cut
    assert reader.loads == (2 if failure == "Reload in mid-payment" else 1)


def test_all_attempts_at_a_payment_carry_one_key_and_the_next_payment_carries_another(reader: Reader) -> None:
    reader.choose("Lost answer")
    reader.pay()
    first = reader.keys(KEYED)
    assert len(first) == 2
    assert len(set(first)) == 1
    assert reader.keys(UNKEYED) == []
    reader.pay()
    assert len(set(reader.keys(KEYED))) == 1
    assert reader.keys(KEYED) != first


def test_a_reload_by_the_readers_own_hand_pays_once_with_a_key(reader: Reader) -> None:
    reader.choose("Slow server")
    reader.page.get_by_role("button", name="Pay $20").click()
    reader.page.get_by_text("Works for 1.6 s").first.wait_for()
    reader.page.reload()
    reader.wait_for_payment(1)
    assert reader.moved(KEYED) == 1
    assert reader.verdict(KEYED) == ONCE


def test_a_reload_after_the_payment_shows_it_and_pays_nothing(reader: Reader) -> None:
    reader.choose("Lost answer")
    reader.pay()
    shown = reader.timeline(KEYED), reader.timeline(UNKEYED), reader.status
    reader.page.reload()
    reader.wait_for_payment(1)
    assert (reader.timeline(KEYED), reader.timeline(UNKEYED), reader.status) == shown
    assert (reader.moved(KEYED), reader.moved(UNKEYED)) == (1, 2)


def test_whoever_really_clicks_twice_makes_one_payment(reader: Reader) -> None:
    reader.choose("Slow server")
    reader.page.get_by_role("button", name="Pay $20").dblclick()
    reader.wait_for_payment(1)
    assert (reader.moved(KEYED), reader.moved(UNKEYED)) == (1, 2)
    reader.choose("Nothing")
    reader.pay()
    assert reader.payments() == 2


def test_two_tabs_see_nothing_of_each_other(reader: Reader) -> None:
    other = Reader(reader.shop, reader.context)
    for tab, failure in ((reader, "Lost answer"), (other, "Nothing")):
        tab.choose(failure)
        tab.pay()
    assert (reader.moved(KEYED), reader.moved(UNKEYED)) == (1, 2)
    assert (other.moved(KEYED), other.moved(UNKEYED)) == (1, 1)
    assert other.payments() == 1
    assert not set(reader.keys(KEYED)) & set(other.keys(KEYED))
    assert other.errors == []


def test_a_shop_that_is_gone_is_told_and_one_that_is_back_is_paid(reader: Reader) -> None:
    reader.context.set_offline(True)
    reader.page.get_by_role("button", name="Pay $20").click()
    reader.page.get_by_text("The shop cannot be reached.").wait_for()
    reader.context.set_offline(False)
    assert reader.errors.pop().endswith("net::ERR_INTERNET_DISCONNECTED")
    reader.pay()
    assert reader.moved(KEYED) == 1

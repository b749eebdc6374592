"""The page that documents the policies in force."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from html.parser import HTMLParser
from typing import Any

import pytest
from werkzeug import Request
from werkzeug.test import EnvironBuilder

from flask_idempotency.engine.policy import Policy
from flask_idempotency.http.policy_page import Rules, answer
from flask_idempotency.http.problems import PROBLEMS, Docs, problem

PAGE = Docs(path="/.well-known/idempotency")


def page(*rules: Rules, accept: str = "application/json", docs: Docs = PAGE, script_name: str = "") -> Any:
    environ = EnvironBuilder(headers={"Accept": accept}).get_environ()
    environ["SCRIPT_NAME"] = script_name
    response = answer(Request(environ), rules, docs)
    assert response.headers["Vary"] == "Accept"
    return response.json if response.is_json else response.get_data(as_text=True)


class Anchors(HTMLParser):
    """Where the page can be linked into."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.update(value for name, value in attrs if name == "id" and value)


@pytest.mark.parametrize("docs", [PAGE, Docs(path="/rules")])
def test_each_problem_leads_to_its_place_on_the_page(docs: Docs) -> None:
    anchors = Anchors(page(Rules(Policy()), accept="text/html", docs=docs, script_name="/shop")).found
    told = {entry["type"] for entry in page(Rules(Policy()), docs=docs, script_name="/shop")["problems"]}
    for slug in PROBLEMS:
        document = json.loads(problem(slug).document(docs.below("/shop")))
        assert document["type"] in told
        address, _, anchor = document["type"].partition("#")
        assert address == f"/shop{docs.path}"
        assert anchor in anchors


def call(*_: object) -> Any:
    """For options that take a callable."""


#: Another value for each option.
OTHERS: dict[str, Any] = {
    "header": "X-Key",
    "key_from": call,
    "methods": ("PUT",),
    "max_run": 7.0,
    "keep": "all",
    "on_lapse": "refuse",
    "on_error": "refuse",
    "on_conflict": "rerun",
    "on_store_error": "run",
    "on_completion_error": "refuse",
    "principal": ("X-User",),
    "fingerprint": "json",
    "keep_request": call,
}

#: What nobody hears of who only sends requests.
NOT_PUBLISHED = {"refusal", "spool_bytes"}


def changed(policy: Policy, option: str) -> Policy:
    known = getattr(policy, option)
    other = OTHERS[option] if option in OTHERS else not known if isinstance(known, bool) else known + 1
    return replace(policy, **{option: other})


@pytest.mark.parametrize("option", sorted({field.name for field in fields(Policy)} - NOT_PUBLISHED))
def test_every_option_that_shapes_the_behaviour_is_told(option: str) -> None:
    views = Rules(changed(Policy(), option), ("/view",))
    one, two = page(Rules(Policy()), views)["policies"]
    assert one["paths"] == "all others"
    assert two["paths"] == ["/view"]
    differing = [name for name in one if name != "paths" and one[name] != two[name]]
    assert len(differing) == 1
    html = page(Rules(Policy()), views, accept="text/html")
    assert html.count("<caption>In force") == 2


@pytest.mark.parametrize("option", sorted(NOT_PUBLISHED))
def test_policies_that_read_the_same_are_told_once(option: str) -> None:
    differs: Callable[[Policy], Policy] = lambda policy: replace(  # noqa: E731
        policy, **{option: call if option == "refusal" else 7}
    )
    stricter = Policy(retention=60.0)
    told = page(
        Rules(Policy()),
        Rules(differs(Policy()), ("/a",)),
        Rules(stricter, ("/b", "/c")),
        Rules(differs(stricter), ("/d", "/c")),
    )
    assert [entry["paths"] for entry in told["policies"]] == ["all others", ["/b", "/c", "/d"]]


def test_exempt_paths_are_listed() -> None:
    rules = (Rules(Policy()), Rules(None, ("/b", "/<a>")), Rules(None, ("/b",)))
    assert page(*rules)["exempt_paths"] == ["/<a>", "/b"]
    assert "/&lt;a&gt;, /b" in page(*rules, accept="text/html")


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "image/png", "text/html, application/json;q=0.9"])
def test_people_are_shown_html(accept: str) -> None:
    assert "<h1>Idempotency policy</h1>" in page(Rules(Policy()), accept=accept)


def test_what_an_application_names_cannot_break_the_page() -> None:
    assert "<script>" not in page(Rules(Policy(), ("/<script>",)), accept="text/html")

"""The refusals, as problem documents."""

import json

import pytest

from flask_idempotency.engine.engine import Refusal
from flask_idempotency.http.policy_page import link_target
from flask_idempotency.http.problems import PROBLEMS, problem


@pytest.mark.parametrize("slug", PROBLEMS)
def test_each_problem_is_a_whole_document(slug: str) -> None:
    told = problem(slug, reason="it is so", retry_after=7)
    document = json.loads(told.body)
    assert document["type"] == f"urn:flask-idempotency:{slug}"
    assert document["status"] == told.status == int(told.status_line[:3])
    assert document["title"]
    assert document["detail"]
    assert "{" not in document["detail"]
    assert told.headers("/rules") == [
        ("Content-Type", "application/problem+json"),
        ("Link", '</rules>; rel="describedby"'),
        ("Retry-After", "7"),
        ("Cache-Control", "no-store"),
        ("Content-Length", str(len(told.body))),
    ]


def test_every_refusal_of_the_engine_has_its_problem() -> None:
    assert {refusal.value for refusal in Refusal} <= PROBLEMS.keys()


def test_what_there_is_nothing_to_say_about_is_left_out() -> None:
    assert [name for name, _ in problem("response-not-kept").headers(None)] == [
        "Content-Type",
        "Cache-Control",
        "Content-Length",
    ]


@pytest.mark.parametrize(
    ("script_name", "docs_url", "target"),
    [
        ("", "/rules", "/rules"),
        ("/shop", "/rules", "/shop/rules"),
        ("/shop/", "/rules", "/shop/rules"),
        ("/shop", "https://docs.example/rules", "https://docs.example/rules"),
        ("/shop", None, None),
        # As PEP 3333 decodes it; raw, it could close the reference, or be no header at all.
        ('/a">b\r\nX: y', "/rules", "/a%22%3Eb%0D%0AX:%20y/rules"),
        ("/日本".encode().decode("latin-1"), "/rules", "/%E6%97%A5%E6%9C%AC/rules"),
    ],
)
def test_a_link_points_below_where_the_application_is_mounted(
    script_name: str, docs_url: str | None, target: str | None
) -> None:
    assert link_target(script_name, docs_url) == target

"""The refusals, as problem documents."""

import json

import pytest

from flask_idempotency.engine.engine import Refusal
from flask_idempotency.http.problems import PROBLEMS, Docs, problem

DRAFT = "https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/"
RULES = Docs(url="/rules")


@pytest.mark.parametrize("slug", PROBLEMS)
@pytest.mark.parametrize("record_id", [None, bytes(range(16)), b"shorter"])
def test_each_problem_is_a_whole_document(slug: str, record_id: bytes | None) -> None:
    told = problem(slug, reason="it is so", retry_after=7, record_id=record_id)
    text = told.document(RULES)
    document = json.loads(text)
    assert document["type"] == f"/rules#{slug}"
    assert document["status"] == told.status == int(told.status_line[:3])
    assert document["title"] == told.title
    assert document["detail"] == told.detail
    assert "{" not in document["detail"]
    assert told.headers(RULES) == [
        ("Content-Type", "application/problem+json"),
        ("Link", '</rules>; rel="describedby"'),
        ("Retry-After", "7"),
        ("Cache-Control", "no-store"),
        ("Content-Length", str(len(text))),
    ]
    assert document.get("instance") == told.instance
    assert told.instance == (record_id and f"urn:flask-idempotency:record:{record_id.hex()}")


def test_every_refusal_of_the_engine_has_its_problem() -> None:
    assert {refusal.value for refusal in Refusal} <= PROBLEMS.keys()


def test_where_asking_again_does_not_help_nothing_says_when() -> None:
    assert "Retry-After" not in dict(problem("response-not-kept").headers(RULES))


def test_two_occurrences_of_a_problem_name_each_its_own_record() -> None:
    one, two = (problem("response-not-kept", record_id=record_id) for record_id in (b"1" * 16, b"2" * 16))
    assert json.loads(one.document(RULES))["instance"] != json.loads(two.document(RULES))["instance"]


def test_a_problem_cannot_be_changed() -> None:
    told = problem("response-not-kept")
    with pytest.raises(AttributeError):
        told.record_id = b"another"  # type: ignore[misc]


def test_where_nothing_is_documented_the_type_is_a_name_and_the_link_leads_to_the_draft() -> None:
    told = problem("response-not-kept")
    assert json.loads(told.document(Docs()))["type"] == "urn:flask-idempotency:response-not-kept"
    assert dict(told.headers(Docs()))["Link"] == f'<{DRAFT}>; rel="describedby"'


@pytest.mark.parametrize(
    ("docs", "link"),
    [
        (Docs(path="/.well-known/idempotency"), "/.well-known/idempotency"),
        (Docs(url="https://docs.example/rules", path="/here"), "https://docs.example/rules"),
        (Docs(url="/rules", path="/here"), "/rules"),
    ],
)
def test_a_problem_leads_to_its_place_in_what_documents_it(docs: Docs, link: str) -> None:
    assert docs.link == link
    assert docs.type_of("response-not-kept") == f"{link}#response-not-kept"


def test_an_address_that_leads_to_a_place_already_is_not_given_a_second_one() -> None:
    assert Docs(url="https://docs.example/#rules").type_of("x") == "https://docs.example/#x"


@pytest.mark.parametrize(
    ("script_name", "page", "target"),
    [
        ("", "/rules", "/rules"),
        ("/shop", "/rules", "/shop/rules"),
        ("/shop/", "/rules", "/shop/rules"),
        ("//shop", "/rules", "/shop/rules"),  # else it would be another host's
        ("/", "/rules", "/rules"),
        ("/shop", "https://docs.example/rules", "https://docs.example/rules"),
        ("/shop", None, None),
        # As PEP 3333 decodes it; raw, it could close the reference, or be no header at all.
        ('/a">b\r\nX: y', "/rules", "/a%22%3Eb%0D%0AX:%20y/rules"),
        ("/日本".encode().decode("latin-1"), "/rules", "/%E6%97%A5%E6%9C%AC/rules"),
    ],
)
def test_a_path_is_below_where_the_application_is_mounted(
    script_name: str, page: str | None, target: str | None
) -> None:
    assert Docs(url=page).below(script_name).link == (target or DRAFT)
    if not page or page.startswith("/"):
        assert Docs(path=page).below(script_name).link == (target or DRAFT)

"""What the policy page says of the views, whatever callables their policies have."""

from typing import Any

import pytest
from flask import Flask

from tests.flask.apps import make_app


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, status: int) -> bool:
        return True


class Quarrelsome(Unhashable):
    """Refuses to be compared, as arrays do."""

    def __eq__(self, other: object) -> Any:
        if isinstance(other, str):
            return False
        raise ValueError("the truth of this is ambiguous")


def published(app: Flask) -> Any:
    return page(app)["policies"]


def page(app: Flask) -> Any:
    answer = app.test_client().get("/.well-known/idempotency", headers={"Accept": "application/json"})
    assert answer.status_code == 200
    return answer.json


@pytest.mark.parametrize("keep", [Unhashable(), Quarrelsome()])
def test_a_callable_that_cannot_be_hashed_or_compared_may_stand_in_a_policy(keep: Any) -> None:
    app, idempotency = make_app()
    for name in ("a", "b"):
        app.add_url_rule(f"/{name}", name, idempotency.view(keep=keep)(lambda: "done"), methods=["POST"])
    everything, those = published(app)
    assert everything["paths"] == "all others"
    assert (those["paths"], those["kept_responses"]) == (["/a", "/b"], "chosen by status")


def test_views_under_the_same_rules_are_told_together_and_those_under_the_applications_not_at_all() -> None:
    app, idempotency = make_app(retention=60)
    options = {"a": {"wait": 5}, "b": {"retention": 60}, "c": {"wait": 5}, "d": {"wait": 6}}
    for name, chosen in options.items():
        view = idempotency.view(**chosen)(lambda: "done")
        app.add_url_rule(f"/{name}", name, view, methods=["GET", "POST", "PATCH", "PUT"])
    app.add_url_rule("/a/<int:id>", "a", methods=["POST"])
    app.add_url_rule("/exempt", "exempt", idempotency.exempt(lambda: "done"), methods=["POST"])
    everything, a, d = published(app)
    assert (everything["paths"], everything["retention_seconds"]) == ("all others", 60)
    assert (sorted(a["paths"]), a["wait_seconds"]) == (["/a", "/a/<int:id>", "/c"], 5)
    assert (d["paths"], d["methods"]) == (["/d"], ["POST", "PATCH"])


def test_exempt_views_are_listed_under_the_methods_that_the_policy_covers() -> None:
    app, idempotency = make_app()
    for name, methods in {"a": ["POST"], "b": ["GET"], "c": ["GET", "PATCH"]}.items():
        app.add_url_rule(f"/{name}", name, idempotency.exempt(lambda: "done"), methods=methods)
    assert page(app)["exempt_paths"] == ["/a", "/c"]


def test_where_only_decorated_views_are_guarded_nothing_is_said_of_others() -> None:
    app, idempotency = make_app(methods=())
    app.add_url_rule("/a", "a", idempotency.view(lambda: "done"), methods=["POST"])
    app.add_url_rule("/b", "b", lambda: "done", methods=["POST"])
    assert [entry["paths"] for entry in published(app)] == [["/a"]]

"""A policy is checked where it is written, and the error names the option and what is allowed."""

import dataclasses
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from flask_idempotency import Idempotency, Policy
from flask_idempotency.engine.policy import OPTIONS, VIEW_OPTIONS, PolicyError, check_names
from flask_idempotency.stores import MemoryStore

NONSENSE: dict[str, tuple[list[Any], str]] = {
    "header": (["", "Two Words", "Ümlaut", "a:b", "a\r\nb", None, 7, "-"], "the name of a header"),
    "key_from": (["request.json", 7, {}], "a callable or None"),
    "methods": (["POST", [7], ["PO ST"], None, {"POST": 1}, [""]], "a list or tuple of method names"),
    "required": ([None, 1, "False"], "True or False"),
    "strict": ([None, 0, "yes"], "True or False"),
    "atomic": ([None, 1], "True or False"),
    "keep_cookies": (["Set-Cookie"], "True or False"),
    "retention": (
        [0, -1, float("nan"), float("inf"), 10**400, "60", None, True, timedelta(0), timedelta(-1)],
        "more than 0",
    ),
    "lease": ([0, -0.1, float("nan"), float("inf"), "30", None, True, timedelta(0)], "more than 0"),
    "wait": ([-1, float("nan"), float("inf"), "5", None, False, timedelta(seconds=-1)], "0 or more"),
    "max_run": ([0, -1, float("nan"), float("inf"), "60", True, timedelta(0)], "more than 0"),
    "max_waiters": ([-1, 1.5, True, "4", None], "a whole number, 0 or more"),
    "keep": (["2xx", 200, None, [200]], "'success' or 'all', or a callable of the status code"),
    "on_lapse": (["run", None, True, lambda: "rerun"], "'rerun' or 'refuse'"),
    "on_error": (["rerun", None, False, lambda: "release"], "'release' or 'refuse'"),
    "on_conflict": (["run", None], "'refuse' or 'rerun'"),
    "on_store_error": (["rerun", None], "'refuse' or 'run'"),
    "on_completion_error": (["run", None, True], "'answer' or 'refuse'"),
    "durable_claims": ([None, 1, "True"], "True or False"),
    "max_response_bytes": ([-1, 1.5, True, "1 MiB", None], "a whole number, 0 or more"),
    "spool_bytes": ([-1, 1.5, True, "256 KiB", None], "a whole number, 0 or more"),
    "principal": (["X-User", [], 7, True, ["Two Words"], [None], ["cookie:"], {"X-User": 1}], "header"),
    "fingerprint": (["value", None, b"", ["json"]], "'bytes' or 'json', or a callable of the request"),
    "completable": ([None, 1, "True"], "True or False"),
    "keep_request": ([None, "yes", 1], "True, False, or a callable of the request"),
    "refusal": (["text/html", 7, {}], "a callable or None"),
}

CASES = [(option, value, allowed) for option, (values, allowed) in NONSENSE.items() for value in values]


def ids(value: Any) -> str:
    return ascii(value)[:20]


def test_every_option_has_its_nonsense() -> None:
    assert NONSENSE.keys() == set(OPTIONS)


@pytest.mark.parametrize(("option", "value", "allowed"), CASES, ids=ids)
def test_a_value_that_makes_no_sense_is_an_error_that_says_what_does(option: str, value: Any, allowed: str) -> None:
    with pytest.raises(PolicyError, match=f"^{option} must be ") as caught:
        Policy(**{option: value})
    assert allowed in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("option", "values"), [(option, values) for option, (values, _) in NONSENSE.items()], ids=ids)
def test_it_is_the_same_error_in_the_configuration_and_at_a_view(option: str, values: list[Any]) -> None:
    app = Flask(__name__)
    app.config["IDEMPOTENCY_" + option.upper()] = values[0]
    with pytest.raises(PolicyError, match=f"^{option} must be "):
        Idempotency(app, store=MemoryStore())
    if option in VIEW_OPTIONS:
        with pytest.raises(PolicyError, match=f"^{option} must be "):
            Idempotency().view(**{option: values[0]})


def test_what_is_of_the_whole_application_is_no_option_of_one_view() -> None:
    assert set(OPTIONS) - set(VIEW_OPTIONS) == {"header", "methods", "strict", "max_waiters", "spool_bytes"}
    for option in ("header", "methods", "strict", "max_waiters", "spool_bytes", "docs_url", "namespace"):
        with pytest.raises(PolicyError, match=f"no option '{option}'"):
            Idempotency().view(**{option: NONSENSE.get(option, [[None], ""])[0][0]})


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("retentoin", "retention"),
        ("Lease", "lease"),
        ("key_form", "key_from"),
        ("on_lapsed", "on_lapse"),
        ("on_eror", "on_error"),
        ("max_runs", "max_run"),
    ],
)
def test_a_misspelt_option_is_an_error_that_names_the_one_that_was_meant(wrong: str, meant: str) -> None:
    options: dict[str, Any] = {wrong: 1}
    for write in (lambda: Policy(**options), lambda: Idempotency().view(**options)):
        with pytest.raises(PolicyError, match=f"no option '{wrong}'. Did you mean '{meant}'"):
            write()


def test_a_misspelt_key_of_the_configuration_is_named_as_it_stands_there() -> None:
    app = Flask(__name__)
    app.config["IDEMPOTENCY_STORE_URI"] = "memory://"
    with pytest.raises(PolicyError, match=r"no option 'IDEMPOTENCY_STORE_URI'\. Did you mean 'IDEMPOTENCY_STORE_URL'"):
        Idempotency(app)


def test_what_resembles_no_option_gets_the_list_of_them() -> None:
    with pytest.raises(PolicyError) as caught:
        check_names(["zzz"])
    assert "Did you mean" not in str(caught.value)
    assert all(option in str(caught.value) for option in OPTIONS)


def test_durations_are_float_seconds_however_they_are_given() -> None:
    durations: dict[str, Any] = {
        "retention": timedelta(days=1),
        "lease": 7,
        "wait": timedelta(milliseconds=1),
        "max_run": 60,
    }
    policy = Policy(**durations)
    assert (policy.retention, policy.lease, policy.wait, policy.max_run) == (86400.0, 7.0, 0.001, 60.0)
    assert all(type(getattr(policy, name)) is float for name in durations)


@pytest.mark.parametrize("methods", [["post", "POST", "Patch"], ("POST", "PATCH")])
def test_methods_are_upper_case_and_each_stands_once(methods: Iterable[str]) -> None:
    assert Policy(methods=methods).methods == ("POST", "PATCH")  # type: ignore[arg-type]


def test_no_method_at_all_is_a_policy() -> None:
    assert Policy(methods=()).methods == ()


def test_what_is_kept() -> None:
    statuses = (199, 200, 204, 299, 300, 404, 500)
    assert [Policy().keeps(status) for status in statuses] == [False, True, True, True, False, False, False]
    assert all(Policy(keep="all").keeps(status) for status in statuses)
    assert [Policy(keep=lambda status: status == 404).keeps(status) for status in statuses].index(True) == 5


@pytest.mark.parametrize("keep", ["success", "all"])
def test_what_asks_to_come_again_is_never_kept(keep: Any) -> None:
    assert not any(Policy(keep=keep).keeps(status) for status in (401, 407, 408, 425, 429, 503))


def test_forms_say_by_some_redirects_that_they_succeeded_and_by_others_nothing() -> None:
    assert [Policy().keeps(status) for status in (301, 302, 303, 304, 307, 308)] == [True] * 3 + [False] * 3


def test_the_principal_is_found_out_unless_it_is_said_how() -> None:
    assert Policy().principal == "default"
    assert Policy(principal=None).principal is None
    assert Policy(principal=["X-User", "cookie:session"]).principal == ("X-User", "cookie:session")  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["key_from", "keep", "principal", "fingerprint", "keep_request", "refusal"])
def test_a_callable_that_nobody_awaits_is_an_error_where_it_is_written(option: str) -> None:
    async def asked(*args: object) -> str:
        return "never"

    with pytest.raises(PolicyError, match=f"{option} must be a plain function"):
        Policy(**{option: asked})


def test_a_callable_may_stand_for_what_the_names_do_not_say() -> None:
    policy = Policy(principal=len, fingerprint=len, keep=bool, key_from=str, refusal=max, keep_request=dict)
    assert (policy.principal, policy.fingerprint, policy.refusal) == (len, len, max)


def test_a_policy_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Policy().lease = 1.0  # type: ignore[misc]


def test_a_policy_is_made_of_another_one_by_replacing_options() -> None:
    one = Policy(principal=["X-User"], lease=5)  # type: ignore[arg-type]
    other = dataclasses.replace(one, lease=6)
    assert (other.principal, other.lease, one.lease) == (("X-User",), 6.0, 5.0)
    with pytest.raises(PolicyError):
        dataclasses.replace(one, lease=0)

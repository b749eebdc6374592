"""The rules behind the clients, each for itself."""

import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from freezegun import freeze_time

from flask_idempotency.client import RetryPolicy
from flask_idempotency.client.faults import is_certificate_refused
from flask_idempotency.client.repeat import Deadline, repeat
from flask_idempotency.client.verdict import retry_after


def is_fault(error: BaseException) -> bool:
    return isinstance(error, OSError)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("Tue, 01 Jan 2030 00:00:30 GMT", 30),
        ("Tue, 01 Jan 2030 01:00:30 +0100", 30),
        ("Mon, 31 Dec 2029 23:59:00 GMT", 0),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("", 0),
        ("5, 6", 0),
        ("Tue, 01 Jan 99999999999 00:00:00 GMT", 0),
        ("9" * 400, float("inf")),
        ("٣", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value: str, seconds: float) -> None:
    with freeze_time("2030-01-01"):
        assert retry_after({"Retry-After": value}) == seconds


def test_retry_after_as_a_date_goes_by_the_servers_clock() -> None:
    headers = {"Date": "Tue, 01 Jan 2030 12:00:00 GMT", "Retry-After": "Tue, 01 Jan 2030 12:00:05 GMT"}

    assert retry_after(headers) == 5


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, which take no time, each as long as the jitter allows."""
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr("tenacity.wait.random", SimpleNamespace(uniform=lambda low, high: high))
    return waits


def failing(*outcomes: Any) -> Callable[[Deadline], Any]:
    left = iter(outcomes)

    def attempt(_: Deadline) -> Any:
        outcome = next(left)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return attempt


def answer(status: int, **headers: str) -> Any:
    return SimpleNamespace(
        status_code=status, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def test_the_backoff_grows_twofold_up_to_its_limit(slept: list[float]) -> None:
    policy = RetryPolicy(attempts=7, backoff=0.5, backoff_max=4)

    with pytest.raises(ConnectionError):
        repeat(failing(*[ConnectionError()] * 7), policy, is_fault)

    assert slept == [0.5, 1, 2, 4, 4, 4]


def test_without_arguments_a_request_is_sent_20_times_from_a_tenth_of_a_second_up_to_two_apart(
    slept: list[float],
) -> None:
    with pytest.raises(ConnectionError):
        repeat(failing(*[ConnectionError()] * 20), RetryPolicy(), is_fault)

    assert slept == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, *[2.0] * 14])
    assert RetryPolicy().deadline == 60


def test_the_jitter_is_full() -> None:
    policy = RetryPolicy(attempts=2, backoff=0.02, backoff_max=0.02)
    waits = []
    for _ in range(30):
        told: list[float] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tenacity.nap.time", SimpleNamespace(sleep=told.append))
            repeat(failing(OSError(), answer(200)), policy, is_fault)
        waits += told

    # Of 30 uniform draws, none in a given third happens once in 200,000 runs.
    assert {int(wait / 0.02 * 3) for wait in waits} == {0, 1, 2}


def test_what_the_server_asks_for_is_the_least_wait(slept: list[float]) -> None:
    attempts = failing(answer(503, Retry_After="5"), answer(503, Retry_After="0"), answer(200))

    assert repeat(attempts, RetryPolicy(backoff=1.0), is_fault).status_code == 200
    assert slept == [5, 2]


def test_a_wait_that_would_end_past_the_deadline_gives_the_last_answer_at_once(slept: list[float]) -> None:
    last = answer(503, Retry_After="60")

    assert repeat(failing(OSError(), last), RetryPolicy(backoff=0.1, deadline=60), is_fault) is last
    assert slept == [0.1]


def test_a_wait_that_would_end_past_the_deadline_raises_the_last_error_at_once(slept: list[float]) -> None:
    last = ConnectionError("the second")

    with pytest.raises(ConnectionError) as raised:
        repeat(failing(answer(503), last), RetryPolicy(backoff=10, backoff_max=20, deadline=15), is_fault)

    assert raised.value is last
    assert slept == [10]


def test_an_error_that_is_not_the_networks_is_raised_at_once(slept: list[float]) -> None:
    with pytest.raises(KeyError):
        repeat(failing(KeyError("a bug")), RetryPolicy(), is_fault)

    assert slept == []


def test_each_attempt_is_told_what_is_left_of_the_deadline() -> None:
    told: list[float] = []

    def attempt(deadline: Deadline) -> Any:
        told.append(deadline.left)
        return answer(503 if len(told) < 3 else 200)

    repeat(attempt, RetryPolicy(deadline=30, backoff=0.01), is_fault)

    assert 30 >= told[0] > told[1] > told[2] > 0


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": 2.5},
        {"deadline": 0},
        {"deadline": float("inf")},
        {"deadline": float("nan")},
        {"backoff": -1},
        {"backoff_max": 0},
        {"methods": "POST"},
    ],
)
def test_a_policy_without_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        RetryPolicy(**options)


def test_a_policy_takes_methods_in_any_case() -> None:
    assert RetryPolicy(methods=("post", "Put")).methods == ("POST", "PUT")


def test_a_refused_certificate_is_found_however_deep_it_is_wrapped() -> None:
    refused = ssl.SSLCertVerificationError("self-signed")
    wrapped = requests.exceptions.SSLError(RuntimeError("while connecting", refused))
    looped = RuntimeError()
    looped.__context__ = looped

    assert is_certificate_refused(wrapped)
    assert not is_certificate_refused(requests.exceptions.SSLError(ssl.SSLEOFError("cut in the handshake")))
    assert not is_certificate_refused(looped)

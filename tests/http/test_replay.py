"""What of a response is kept, and how it is answered again."""

import pytest
from werkzeug.datastructures import Headers

from flask_idempotency.engine.policy import Policy
from flask_idempotency.http.replay import keep, promised_length, replay_headers


def kept(*headers: tuple[str, str], keep_cookies: bool = False) -> tuple[tuple[str, str], ...]:
    return keep("200 OK", list(headers), b"", Policy(keep_cookies=keep_cookies)).headers


def test_headers_are_kept_in_their_order_with_those_that_repeat() -> None:
    headers = (("X-B", "1"), ("Link", "</a>"), ("X-A", "2"), ("link", "</b>"), ("Content-Encoding", "gzip"))
    assert kept(*headers) == headers
    assert keep("200 OK", Headers(headers), b"", Policy()).headers == headers


@pytest.mark.parametrize(
    "name",
    [
        "Date",
        "Set-Cookie",
        "Connection",
        "Keep-Alive",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "Idempotent-Replayed",
    ],
)
def test_what_is_of_the_moment_or_the_connection_is_not_kept(name: str) -> None:
    for spelt in (name, name.lower(), name.upper()):
        assert kept((spelt, "x"), ("ETag", "1")) == (("ETag", "1"),)


def test_cookies_are_kept_where_the_policy_says_so() -> None:
    cookies = (("Set-Cookie", "a=1"), ("set-cookie", "b=2"))
    assert kept(*cookies, keep_cookies=True) == cookies


def test_what_connection_names_is_not_kept() -> None:
    assert kept(("X-Hop", "1"), ("X-End", "2"), ("Connection", "close, X-HOP"), ("connection", "x-other")) == (
        ("X-End", "2"),
    )


def test_a_replay_says_that_it_is_one() -> None:
    response = keep("200 OK", [("X-A", "1")], b"", Policy())
    assert replay_headers(response) == [("X-A", "1"), ("Idempotent-Replayed", "true")]


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([("Content-Length", "7")], 7),
        ([("X-A", "1"), ("content-length", "0")], 0),
        ([], None),
        ([("Content-Length", "x")], None),
        ([("Content-Length", "-1")], None),
        ([("Content-Length", "٣")], None),
    ],
)
def test_the_promised_length_is_a_number_or_none(headers: list[tuple[str, str]], length: int | None) -> None:
    assert promised_length(headers) == length

"""The fingerprint of a request, by the bytes and in the pieces in which servers hand them on."""

import hashlib
from typing import Any

import pytest

from flask_idempotency.http.fingerprint import MAX_JSON_BYTES, fingerprint_of_value, start_fingerprint

FORM = "multipart/form-data; boundary=boundary"
PART = b'--boundary\r\nContent-Disposition: form-data; name="a"%s\r\n\r\n%s\r\n'
END = b"--boundary--\r\n"


def fingerprint(*pieces: bytes, content_type: str = FORM, by: Any = "bytes", **environ: str) -> bytes:
    known = {"REQUEST_METHOD": "POST", "PATH_INFO": "/p", "QUERY_STRING": "", "CONTENT_TYPE": content_type}
    digester = start_fingerprint(known | environ, by)
    for piece in pieces:
        digester.update(piece)
    return digester.digest()


@pytest.mark.parametrize(
    "content", [b"x", b"", b"\r", b"\r\n", b"\n--boundaryx", b"\r\n--boundar", b"x" * 3000, b"\r\n" * 1000]
)
def test_a_form_may_be_torn_at_any_byte(content: bytes) -> None:
    body = PART % (b"", content) + PART % (b'; filename="f"', content) + END
    whole = fingerprint(body)
    for cut in range(len(body)):
        assert fingerprint(body[:cut], body[cut:]) == whole, body[:cut]


def test_a_part_without_even_an_empty_body_may_be_torn_at_any_byte() -> None:
    body = b'--boundary\r\nContent-Disposition: form-data; name="a"; filename="f"\r\n\r\n' + END  # werkzeug's client
    for cut in range(len(body)):
        assert fingerprint(body[:cut], body[cut:]) == fingerprint(body), body[:cut]


def test_a_form_may_arrive_byte_by_byte() -> None:
    body = PART % (b"", b"one\r\n") + PART % (b"", b"two") + END
    assert fingerprint(*(bytes([byte]) for byte in body)) == fingerprint(body)


def test_a_large_form_may_arrive_at_once() -> None:
    body = PART % (b'; filename="f"', bytes(range(256)) * 4000) + END
    assert fingerprint(body) == fingerprint(*(body[begin : begin + 5000] for begin in range(0, len(body), 5000)))


def test_a_form_whose_last_line_is_not_ended_is_whole() -> None:
    body = PART % (b"", b"x") + END
    assert fingerprint(body) == fingerprint(body[:-2])


@pytest.mark.parametrize(
    "other",
    [
        PART % (b"", b"y") + END,
        PART % (b'; filename="f"', b"x") + END,
        PART % (b"\r\nContent-Type: text/html", b"x") + END,
        PART % (b"", b"x") * 2 + END,
        PART.replace(b'"a"', b'"b"') % (b"", b"x") + END,
        END,
    ],
    ids=["data", "filename", "type", "another part", "name", "no part"],
)
def test_every_part_of_a_form_counts_with_its_name_its_type_and_its_data(other: bytes) -> None:
    assert fingerprint(PART % (b"", b"x") + END) != fingerprint(other)


def test_what_stands_around_the_parts_does_not_count() -> None:
    body = PART % (b"", b"x") + END
    assert fingerprint(b"preamble\r\n" + body + b"epilogue") == fingerprint(body)


def test_a_boundary_in_the_data_of_another_form_is_data() -> None:
    assert fingerprint(PART % (b"", b"x\r\n--other") + END) != fingerprint(PART % (b"", b"x") + END)


@pytest.mark.parametrize("body", [b"", b"x", PART % (b"", b"x"), PART.replace(b"Disposition", b"Xyz") % (b"", b"")])
def test_a_form_that_is_none_counts_by_its_bytes(body: bytes) -> None:
    assert fingerprint(body) == fingerprint(body, content_type="text/plain")


def test_after_trouble_nothing_more_is_held() -> None:
    digester = start_fingerprint({"REQUEST_METHOD": "POST", "CONTENT_TYPE": FORM}, "bytes")
    for _ in range(30):
        digester.update(b"--boundary\r\nno end " + b"x" * 65_000)
    assert digester._decoder is None  # type: ignore[attr-defined]
    assert not digester._unread  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data-x", "multipart/mixed; boundary=b", "x-multipart/form-data"]
)
def test_only_a_form_is_read_as_a_form(content_type: str) -> None:
    assert fingerprint(b"--b", content_type=content_type) == fingerprint(b"-", b"-b", content_type="text/plain")


@pytest.mark.parametrize(
    "content_type", ["application/json", "APPLICATION/JSON; charset=utf-8", "application/x.y+json"]
)
def test_json_is_known_by_its_type(content_type: str) -> None:
    same = [fingerprint(body, content_type=content_type, by="json") for body in (b'{"a":1}', b'{ "a": 1.0 }')]
    assert same[0] == same[1]
    assert fingerprint(b"1", content_type=content_type) != fingerprint(b"1.0", content_type=content_type)


@pytest.mark.parametrize("content_type", ["", "text/json", "application/jsonp", "text/plain+json"])
def test_what_is_not_json_by_its_type_counts_by_its_bytes(content_type: str) -> None:
    assert fingerprint(b"1", content_type=content_type, by="json") != fingerprint(
        b"1 ", content_type=content_type, by="json"
    )


@pytest.mark.parametrize("size", [MAX_JSON_BYTES, MAX_JSON_BYTES + 1])
def test_large_json_counts_by_its_bytes(size: int) -> None:
    one, two = (text.ljust(size).encode() for text in ('{"a":1}', '{"a": 1}'))
    same = fingerprint(one, content_type="application/json", by="json") == fingerprint(
        two, content_type="application/json", by="json"
    )
    assert same == (size <= MAX_JSON_BYTES)


def test_json_counts_in_any_of_its_encodings() -> None:
    text = '{"a": "é"}'
    of = {fingerprint(text.encode(name), content_type="application/json", by="json") for name in ("utf-8", "utf-16")}
    assert len(of) == 1


def test_bytes_and_json_of_the_same_body_are_not_mistaken_for_each_other() -> None:
    """A policy that changes from one to the other must not let a body pass for another."""
    assert fingerprint(b"1", content_type="application/json", by="json") != fingerprint(
        b"(0, '1', 0)", content_type="application/json"
    )


def test_where_the_application_is_mounted_counts_as_a_part_of_the_path() -> None:
    assert fingerprint(b"", content_type="", SCRIPT_NAME="/a", PATH_INFO="/b") == fingerprint(
        b"", content_type="", SCRIPT_NAME="", PATH_INFO="/a/b"
    )
    assert fingerprint(b"", content_type="", PATH_INFO="/a") != fingerprint(b"", content_type="", PATH_INFO="/b")


@pytest.mark.parametrize(
    ("asked_for", "told"),
    [
        ({"HTTP_HOST": "Shop.example"}, "shop.example"),
        ({"HTTP_HOST": "shop.example:80"}, "shop.example"),
        ({"HTTP_HOST": "shop.example:443", "wsgi.url_scheme": "https"}, "shop.example"),
        ({"HTTP_HOST": "shop.example:443"}, "shop.example:443"),
        ({"HTTP_HOST": "shop.example:8080"}, "shop.example:8080"),
        ({"HTTP_HOST": "[::1]:80"}, "[::1]"),
        ({"SERVER_NAME": "shop.example", "SERVER_PORT": "80"}, "shop.example"),
        ({"SERVER_NAME": "shop.example", "SERVER_PORT": "5000"}, "shop.example:5000"),
        ({"HTTP_HOST": "shop.example", "SERVER_NAME": "10.0.0.7", "SERVER_PORT": "8000"}, "shop.example"),
    ],
)
def test_the_host_counts_as_the_request_asks_for_it(asked_for: dict[str, str], told: str) -> None:
    of = {fingerprint(b"", content_type="", **environ) for environ in (asked_for, {"HTTP_HOST": told})}
    assert len(of) == 1
    assert of != {fingerprint(b"", content_type="", HTTP_HOST="another.example")}


def test_the_method_counts() -> None:
    assert fingerprint(b"", content_type="") != fingerprint(b"", content_type="", REQUEST_METHOD="PATCH")


@pytest.mark.parametrize("value", [object(), {1, 2}, {"a": object()}, {("a", 1): 2}, open])
def test_what_a_callable_returns_must_be_the_same_in_every_retry(value: object) -> None:
    with pytest.raises(TypeError, match="fingerprint must return a string, bytes, or what JSON can hold"):
        fingerprint_of_value(value)


def test_the_fingerprint_is_what_it_was() -> None:
    """Records outlive an upgrade: another fingerprint would refuse the retries that come after it."""
    head = b"bytes POST 1 h 2 /p 3 a=1\nbody"
    assert (
        fingerprint(b"bo", b"dy", content_type="", HTTP_HOST="h", QUERY_STRING="a=1")
        == hashlib.blake2b(head, digest_size=16).digest()
    )

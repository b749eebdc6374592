"""Properties of the header and the fingerprint, for whatever clients may send."""

import io
import json
import string
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import FileStorage
from werkzeug.test import stream_encode_multipart

from flask_idempotency.http.fingerprint import fingerprint_of_value, start_fingerprint
from flask_idempotency.http.header import MalformedKey, parse_key

PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
keys = st.text(PRINTABLE, min_size=1, max_size=255).filter(str.strip)
bare_keys = st.text([c for c in PRINTABLE if c not in '",'], min_size=1, max_size=255).map(str.strip).filter(bool)


def quote(key: str) -> str:
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(keys)
def test_every_printable_key_can_be_sent_quoted(key: str) -> None:
    assert parse_key(quote(key)) == parse_key(f"  {quote(key)}\t", strict=True) == key


@given(bare_keys)
def test_a_bare_key_names_what_it_names_quoted(key: str) -> None:
    assert parse_key(key) == parse_key(quote(key)) == key
    with pytest.raises(MalformedKey):
        parse_key(key, strict=True)


@given(st.text())
def test_a_field_value_is_a_key_or_malformed_and_nothing_else(value: str) -> None:
    try:
        key = parse_key(value)
    except MalformedKey:
        return
    assert 1 <= len(key) <= 255
    assert key.isascii()
    assert key.isprintable()


@given(keys, keys)
def test_what_a_server_joins_of_two_fields_is_never_a_key(one: str, two: str) -> None:
    for joined in (f"{quote(one)},{quote(two)}", f"{quote(one)}, {quote(two)}"):
        with pytest.raises(MalformedKey):
            parse_key(joined)


def fingerprint(
    body: bytes, content_type: str = "text/plain", by: Any = "bytes", cuts: Any = (), **environ: str
) -> bytes:
    """The fingerprint of a request whose body arrives in pieces."""
    digester = start_fingerprint(
        {"REQUEST_METHOD": "POST", "PATH_INFO": "/p", "QUERY_STRING": "q", "CONTENT_TYPE": content_type} | environ, by
    )
    begin = 0
    for cut in [*sorted(min(cut, len(body)) for cut in cuts), len(body)]:
        digester.update(body[begin:cut])
        begin = cut
    return digester.digest()


cut_points = st.lists(st.integers(0, 2000), max_size=8)


@given(st.binary(max_size=2000), cut_points, cut_points)
def test_how_the_body_arrives_does_not_matter(body: bytes, one: list[int], two: list[int]) -> None:
    assert fingerprint(body, cuts=one) == fingerprint(body, cuts=two)


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_other_bytes_are_another_request(one: bytes, two: bytes) -> None:
    assert (fingerprint(one) == fingerprint(two)) == (one == two)


texts = st.text(string.ascii_letters + "/?&= \n0123456789", max_size=8)


@given(st.tuples(texts, texts, texts, texts), st.tuples(texts, texts, texts, texts))
def test_host_path_query_and_payload_do_not_run_into_each_other(one: Any, two: Any) -> None:
    def of(parts: tuple[str, str, str, str]) -> bytes:
        host, path, query, body = parts
        return fingerprint(body.encode(), SERVER_NAME=host, PATH_INFO=path, QUERY_STRING=query)

    def told_apart(parts: tuple[str, str, str, str]) -> tuple[str, ...]:
        return parts[0].lower(), *parts[1:]

    assert (of(one) == of(two)) == (told_apart(one) == told_apart(two))


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def of_json(text: str) -> bytes:
    return fingerprint(text.encode("utf-8", "surrogatepass"), "application/json", "json")


@given(values)
def test_json_that_is_written_otherwise_is_the_same_request(value: Any) -> None:
    spellings = {
        json.dumps(value),
        json.dumps(value, indent=3),
        json.dumps(value, ensure_ascii=False),
        json.dumps(_reversed(value), separators=(" ,", ": ")),
    }
    assert len({of_json(text) for text in spellings}) == 1


def _reversed(value: Any) -> Any:
    """The same value with its members in another order."""
    if isinstance(value, dict):
        return {name: _reversed(value[name]) for name in reversed(value)}
    return [_reversed(each) for each in value] if isinstance(value, list) else value


@given(values, values)
def test_json_of_another_value_is_another_request(one: Any, two: Any) -> None:
    assert (of_json(json.dumps(one)) == of_json(json.dumps(two))) == (_typed(one) == _typed(two))


def _typed(value: Any) -> Any:
    """What JSON can tell apart: Python takes True for 1, JSON does not; 1 and 1.0 are one number."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return type(value).__name__, value
    if isinstance(value, dict):
        return "object", {name: _typed(each) for name, each in value.items()}
    if isinstance(value, list):
        return "array", [_typed(each) for each in value]
    return "number", value


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ('{"a": 1, "a": 2}', '{"a": 2}'),  # parsers differ on which member counts
        ("1" + "0" * 40, "1" + "0" * 39 + "1"),  # beyond what a float, or Decimal's context, can hold
        ("[1", "[1 "),  # not JSON: then the bytes count
        ("1e999999999999999999999", "1e999999999999999999998"),
        ('{"\\u0000number": "1"}', "1"),
    ],
)
def test_json_that_only_looks_alike_is_another_request(one: str, two: str) -> None:
    assert of_json(one) != of_json(two)


@pytest.mark.parametrize(("one", "two"), [("-0", "0"), ("100", "1e2"), ("1.50", "15e-1"), ("0.0", "0")])
def test_numbers_count_by_their_value(one: str, two: str) -> None:
    assert of_json(one) == of_json(two)


def test_json_that_nests_too_deep_counts_by_its_bytes() -> None:
    deep = "[" * 100_000
    assert of_json(deep) == of_json(deep)
    assert of_json(deep) != of_json(deep + " ")


names = st.text(string.ascii_letters + " é", min_size=1, max_size=5)
forms = st.dictionaries(names, st.binary(max_size=300) | st.text(max_size=20), min_size=1, max_size=4)


def of_form(form: dict[str, Any], boundary: str, cuts: Any = ()) -> bytes:
    fields = {
        name: FileStorage(io.BytesIO(value), f"{name}.bin") if isinstance(value, bytes) else value
        for name, value in form.items()
    }
    stream, _, _ = stream_encode_multipart(fields, boundary=boundary)
    return fingerprint(stream.read(), f"multipart/form-data; boundary={boundary}", cuts=cuts)


@given(forms, cut_points)
def test_a_form_is_the_same_under_another_boundary_however_it_arrives(form: dict[str, Any], cuts: list[int]) -> None:
    assert of_form(form, "one-boundary") == of_form(form, "anotherboundary", cuts)


@given(forms, forms)
def test_another_form_is_another_request(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (of_form(one, "one-boundary") == of_form(two, "anotherboundary")) == (list(one.items()) == list(two.items()))


malformed = st.binary(max_size=200) | st.lists(st.sampled_from([b"--b", b"\r\n", b"\n", b"--", b"x:y"])).map(b"".join)


@given(malformed, cut_points)
def test_what_is_no_form_counts_by_its_bytes_however_it_arrives(body: bytes, cuts: list[int]) -> None:
    form = "multipart/form-data; boundary=b"
    assert fingerprint(body, form, cuts=cuts) == fingerprint(body, form)
    if b"--b--" not in body:
        assert fingerprint(body, form) == fingerprint(body)


@given(st.integers(440_000, 600_000), st.lists(st.integers(0, 600_000), max_size=20))
def test_where_the_decoder_gives_up_does_not_depend_on_how_the_body_arrives(size: int, cuts: list[int]) -> None:
    head = b"--b\r\nContent-Disposition: form-data; name=a\r\nX: " + b"y" * size + b"\r\n\r\n"
    body = head + b"d" * 100_000 + b"\r\n--b--\r\n"
    assert fingerprint(body, "multipart/form-data; boundary=b", cuts=cuts) == fingerprint(
        body, "multipart/form-data; boundary=b"
    )


def test_a_part_without_end_does_not_fill_the_memory() -> None:
    endless = b"--b\r\nContent-Disposition: form-data; name=a; x=" + b"y" * 2_000_000
    digester = start_fingerprint({"REQUEST_METHOD": "POST", "CONTENT_TYPE": "multipart/form-data; boundary=b"}, "bytes")
    tracemalloc.start()
    try:
        for begin in range(0, len(endless), 60_000):
            digester.update(endless[begin : begin + 60_000])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_500_000


json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(json_values | st.binary(max_size=5), json_values | st.binary(max_size=5))
def test_what_a_callable_returns_counts_by_its_value(one: Any, two: Any) -> None:
    assert (fingerprint_of_value(one) == fingerprint_of_value(two)) == (_spelt(one) == _spelt(two))


def _spelt(value: Any) -> Any:
    return value if isinstance(value, bytes) else json.dumps(value, sort_keys=True)

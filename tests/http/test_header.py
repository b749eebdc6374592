"""Keys as they are read from the header: whatever is sent, it is one key, to the letter, or it is refused."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_idempotency.http.header import MAX_LENGTH, MalformedKey, check_key, environ_name, parse_key

PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
BARE = "".join(sorted(set(PRINTABLE) - set('",')))

keys = st.text(PRINTABLE, min_size=1, max_size=MAX_LENGTH).filter(str.strip)
bare_keys = st.text(BARE, min_size=1, max_size=MAX_LENGTH).filter(str.strip)
header_values = st.text(st.characters(max_codepoint=0xFF), max_size=300)


def quoted(key: str) -> str:
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(keys, st.text(" \t", max_size=3), st.text(" \t", max_size=3))
def test_white_space_around_the_field_does_not_count(key: str, before: str, after: str) -> None:
    assert parse_key(before + quoted(key) + after) == key


@given(header_values)
def test_two_different_keys_are_never_read_the_same_way(value: str) -> None:
    """A value that is accepted is, spelt canonically, one of the two forms and no third."""
    try:
        key = parse_key(value)
    except MalformedKey:
        return
    assert value.strip(" \t") in (key, quoted(key))


@given(st.lists(bare_keys | keys.map(quoted), min_size=2, max_size=4), st.sampled_from([",", ", "]))
def test_a_field_sent_twice_is_refused_however_the_server_joins_it(values: list[str], comma: str) -> None:
    with pytest.raises(MalformedKey):
        parse_key(comma.join(values))


@given(keys, st.sampled_from([";p", ";p=1", "; a=b;c"]))
def test_parameters_are_refused(key: str, parameters: str) -> None:
    with pytest.raises(MalformedKey):
        parse_key(quoted(key) + parameters)


@given(keys, st.text(string.printable, min_size=1, max_size=5).filter(lambda text: '"' not in text and text.strip()))
def test_nothing_may_follow_the_closing_quote(key: str, more: str) -> None:
    with pytest.raises(MalformedKey):
        parse_key(quoted(key) + more)


@pytest.mark.parametrize("length", [MAX_LENGTH, MAX_LENGTH + 1])
@pytest.mark.parametrize("form", [str, quoted, lambda key: quoted(key)[:-2] + '\\""'])
def test_the_length_is_that_of_the_key_not_of_its_spelling(form: object, length: int) -> None:
    assert callable(form)
    value = form("k" * length)
    if length > MAX_LENGTH:
        with pytest.raises(MalformedKey, match="longer than 255"):
            parse_key(value)
    else:
        assert len(parse_key(value)) == length


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "empty"),
        (" \t", "empty"),
        ('""', "empty"),
        ("caf\xe9", "printable ASCII"),
        ("a\x00b", "printable ASCII"),
        ("a\x7f", "printable ASCII"),
        ("a,a", "more than once"),
        ('"  "', "empty"),
        ("a\tb", "printable ASCII"),
        ('a"', "quoted String"),
        ('a"b"', "quoted String"),
        ('"a', "one quoted String"),
        ('"a"b', "one quoted String"),
        ('"a\\n"', "one quoted String"),
        ('"\t"', "one quoted String"),
    ],
)
def test_the_error_says_what_is_wrong(value: str, why: str) -> None:
    with pytest.raises(MalformedKey, match=why):
        parse_key(value)


@pytest.mark.parametrize(
    "key", ["a b", "a;b=1", "a\\b", "'; DROP TABLE orders; --", "../../etc/passwd", "a=b", "{}", "k;", "(a b)", "?1"]
)
def test_any_other_bare_characters_are_an_ordinary_key(key: str) -> None:
    assert parse_key(key) == parse_key(quoted(key)) == key


def test_strict_says_how_to_quote() -> None:
    with pytest.raises(MalformedKey, match='as in "'):
        parse_key("abc", strict=True)


@pytest.mark.parametrize("key", [None, 7, b"bytes", ["a"], "", " ", "\n", "\u2028", "k" * 256])
def test_a_key_from_elsewhere_is_held_to_the_same_rules(key: object) -> None:
    with pytest.raises(MalformedKey):
        check_key(key)


def test_a_key_from_elsewhere_needs_no_quotes() -> None:
    assert check_key('a, "b"; c') == 'a, "b"; c'


def test_a_header_is_found_where_wsgi_puts_it() -> None:
    assert environ_name("Idempotency-Key") == environ_name("idempotency-key") == "HTTP_IDEMPOTENCY_KEY"

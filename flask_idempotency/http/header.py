"""Reads the idempotency key from its header field.

The field is an RFC 9651 Item whose value is a String (draft-ietf-httpapi-idempotency-key-header, section 2.1). Most
clients send the bare characters instead; both forms name the same key.
"""

import re
from functools import lru_cache

#: Characters of the longest key.
MAX_LENGTH = 255

# RFC 9651, section 3.3.3: printable ASCII between quotes, with \" and \\ as the only escapes.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
# What most clients send: visible ASCII without what would make it a list or a quoted form gone wrong.
_PLAIN = re.compile(r"[!#-+\--~]{1,255}")
_ESCAPE = re.compile(r'\\(["\\])')


class MalformedKey(ValueError):
    """What the client sent names no key. The text says why and repeats nothing of what was sent."""


@lru_cache
def environ_name(header: str) -> str:
    """Where a WSGI environ has the header."""
    return "HTTP_" + header.upper().replace("-", "_")


def parse_key(value: str, *, strict: bool = False) -> str:
    """The key that a field value names; `strict` accepts the quoted form only. Raises `MalformedKey`.

    Servers join a field that was sent twice with a comma, so a comma outside quotes is refused.
    """
    if not strict and _PLAIN.fullmatch(value):
        return value
    value = value.strip(" \t")
    if value.startswith('"'):
        quoted = _QUOTED.fullmatch(value)
        if quoted is None:
            raise MalformedKey("it is not one quoted String without parameters (RFC 9651, section 3.3.3)")
        key = quoted[1]
        return check_key(_ESCAPE.sub(r"\1", key) if "\\" in key else key)
    key = check_key(value)
    if strict:
        raise MalformedKey('only the quoted form is accepted here, as in "8e03978e-40d5-43e8-bc93-6894a57f9324"')
    if "," in key:
        raise MalformedKey("it was sent more than once, or is a list")
    if '"' in key:
        raise MalformedKey("a key that has a quote in it must be sent as a quoted String (RFC 9651, section 3.3.3)")
    return key


def check_key(key: object) -> str:
    """`key`, where it can serve as one: 1 to 255 printable ASCII characters, not all spaces. Raises `MalformedKey`."""
    if not isinstance(key, str) or not key.isascii() or not key.isprintable():
        raise MalformedKey("it has other than printable ASCII characters")
    if not key or key.isspace():
        raise MalformedKey("it is empty")
    if len(key) > MAX_LENGTH:
        raise MalformedKey(f"it is longer than {MAX_LENGTH} characters")
    return key

"""Digests of 16 bytes: long enough that no two operations share one."""

from hashlib import blake2b

_EMPTY = blake2b(digest_size=16)


def start_digest(data: bytes) -> blake2b:
    """A digest that begins with `data` and takes more. To copy one is half the work of making one."""
    digester = _EMPTY.copy()
    digester.update(data)
    return digester


def digest(data: bytes) -> bytes:
    """The digest of `data`."""
    digester = _EMPTY.copy()
    digester.update(data)
    return digester.digest()

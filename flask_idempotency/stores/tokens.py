"""Random tokens for claims, made many at a time."""

import os

_BYTES = 16
_AT_A_TIME = 256

#: A system call for each would be a third of what a claim costs in memory.
_made: list[bytes] = []


def new_token() -> bytes:
    """A token that nobody else has."""
    try:
        return _made.pop()
    except IndexError:
        random = os.urandom(_AT_A_TIME * _BYTES)
        _made.extend(random[begin : begin + _BYTES] for begin in range(_BYTES, len(random), _BYTES))
        return random[:_BYTES]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_made.clear)  # a child must not give the tokens that its parent gives

"""Fencing tokens: random, since a counter could come back after its record was purged."""

import os

from ..engine.forks import call_in_child

_BYTES = 16
_AT_A_TIME = 256


class Tokens:
    """Gives each token once, to any thread. A forked child gives none of its parent's."""

    _made: list[bytes]

    def __init__(self) -> None:
        self._forget_all()
        call_in_child(self._forget_all)

    def take(self) -> bytes:
        """A token that was never given before."""
        try:
            return self._made.pop()
        except IndexError:
            # Many at a time: a system call for each would be a fair part of what a claim costs.
            random = os.urandom(_AT_A_TIME * _BYTES)
            made = [random[begin : begin + _BYTES] for begin in range(0, len(random), _BYTES)]
            token = made.pop()
            self._made = made
            return token

    def _forget_all(self) -> None:
        self._made = []

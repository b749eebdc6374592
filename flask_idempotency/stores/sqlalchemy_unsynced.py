"""Claims that a crash of the database's server may take with it, and what is known of them here."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from ..engine.records import Claim

#: How many are remembered. Those beyond are fenced if they are lost.
_KEPT = 10_000


@dataclass(slots=True)
class UnsyncedClaim:
    """A claim that was made without waiting for the disk. Instants are those of this process's monotonic clock."""

    fingerprint: bytes
    number: int
    made: float
    stands_until: float


class UnsyncedClaims:
    """What completes a claim that its database lost.

    A record that bears no longer the claim's token says the same whether the claim was lost or taken over, and given
    back by the next holder. The one is completed nevertheless, the other is fenced. It cannot have been taken over
    while its lease stands without a gap; and where a connection was lost since, it has the benefit of the doubt: no
    lease can be renewed while the database is down.
    """

    def __init__(self) -> None:
        self._claims: dict[bytes, UnsyncedClaim] = {}

    def remember(self, claim: Claim, fingerprint: bytes, number: int, *, asked: float, lease: float) -> None:
        """A claim that was `asked` for then, and granted."""
        if len(self._claims) >= _KEPT:
            self._forget_the_lapsed(asked)
        if len(self._claims) < _KEPT:
            self._claims[claim.token] = UnsyncedClaim(fingerprint, number, asked, asked + lease)

    def prolong(self, claims: Iterable[Claim], *, asked: float, lease: float) -> None:
        """The lease of these was renewed. One that had lapsed may be another's by now."""
        for claim in claims:
            known = self._claims.get(claim.token)
            if known is not None and asked < known.stands_until:
                known.stands_until = asked + lease

    def lost(self, claim: Claim, *, trouble: float) -> UnsyncedClaim | None:
        """What is known of the claim, where it may have been lost; `trouble`: when a connection last was."""
        known = self._claims.get(claim.token)
        if known is None or (time.monotonic() >= known.stands_until and trouble < known.made):
            return None
        return known

    def forget(self, claim: Claim) -> None:
        """The claim has ended, and that is on the disk."""
        self._claims.pop(claim.token, None)

    def _forget_the_lapsed(self, now: float) -> None:
        for token, known in self._claims.copy().items():
            if known.stands_until <= now:
                self._claims.pop(token, None)

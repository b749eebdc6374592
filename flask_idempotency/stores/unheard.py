"""Claims that may stand though their replies never came, with nobody to run under them."""

from ..engine.forks import call_in_child
from ..engine.records import Claim

#: How many are remembered. Those beyond lapse by themselves.
_KEPT = 1000


class UnheardClaims:
    """Remembered, so that the next try finds its own, or the heartbeat gives them back.

    With `on_lapse="refuse"` more than a lease is at stake: once lapsed, such a claim would call a person to look into
    an outcome, though nothing ever ran. Each is taken out before anything is done with it: under one that is given
    back nobody may run. A forked child has none of its parent's: under one of them, only one process may run.
    """

    def __init__(self) -> None:
        self._forget_all()
        call_in_child(self._forget_all)

    def __bool__(self) -> bool:
        return bool(self._claims)

    def remember(self, claim: Claim, retention: float) -> None:
        """Remember `claim`, and how long its record is to be kept, unless there are too many."""
        if len(self._claims) < _KEPT:
            self._claims[claim.record.id] = claim, retention

    def take(self, record_id: bytes) -> Claim | None:
        """The claim of this record, which is forgotten here. It may have been made for another fingerprint."""
        claim, _ = self._claims.pop(record_id, (None, 0.0))
        return claim

    def take_any(self) -> tuple[Claim, float] | None:
        """One of them and its retention, which is forgotten here; None where there is none left."""
        try:
            return self._claims.popitem()[1]
        except KeyError:
            return None

    def _forget_all(self) -> None:
        self._claims: dict[bytes, tuple[Claim, float]] = {}

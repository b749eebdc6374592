"""What the parts of the store contract share: the store under test, its clock, and calls with the rest filled in."""

import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from ...engine.records import Claim, Claimed, RecordKey, Standing, StoredResponse
from ...engine.store import Store

DAY = 24 * 60 * 60.0

#: A status line with its phrase, repeated headers in their order, and a body that is no text.
RESPONSE = StoredResponse(
    "201 CREATED",
    (("Content-Type", "application/octet-stream"), ("X-Twice", "b"), ("X-Twice", "a"), ("X-Latin", "caf\xe9")),
    bytes(range(256)) * 4,
)

FINGERPRINT, OTHER_FINGERPRINT = b"f" * 16, b"o" * 16


def new_record() -> RecordKey:
    """The identity of an operation that no store knows yet."""
    return RecordKey.of(b"p" * 16, str(uuid.uuid4()), method="POST", path="/orders")


class StoreContractFrame:
    """The store under test, a record of its own for each test, and how time passes."""

    #: The lease, in seconds, of the tests that let one end: long enough for the store to answer, short enough to wait.
    short: float = 1.0

    def open_store(self) -> Store:
        """Open the store under test."""
        raise NotImplementedError

    @pytest.fixture
    def pass_time(self) -> Callable[[float], None]:
        """Let so many seconds pass for the store; to be overridden where a clock can be moved."""
        return time.sleep

    @pytest.fixture
    def end_leases(self, pass_time: Callable[[float], None]) -> Callable[[], None]:
        """Let enough time pass for leases (and retentions) of `short` to end, and little more."""
        return lambda: pass_time(self.short * 1.1)

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        """One store under test."""
        store = self.open_store()
        yield store
        store.close()

    @pytest.fixture
    def record(self) -> RecordKey:
        """A record of its own for each test."""
        return new_record()

    def claim(
        self,
        store: Store,
        record: RecordKey,
        fingerprint: bytes = FINGERPRINT,
        *,
        lease: float = 60.0,
        retention: float = DAY,
        take_over: bool = True,
        durable: bool = False,
    ) -> Standing:
        """`store.claim`, with what most tests do not care about filled in."""
        return store.claim(record, fingerprint, lease=lease, retention=retention, take_over=take_over, durable=durable)

    def must_claim(
        self,
        store: Store,
        record: RecordKey,
        fingerprint: bytes = FINGERPRINT,
        *,
        lease: float = 60.0,
        retention: float = DAY,
        take_over: bool = True,
    ) -> Claim:
        """Claim a record that must be free."""
        outcome = self.claim(store, record, fingerprint, lease=lease, retention=retention, take_over=take_over)
        assert isinstance(outcome, Claimed), outcome
        return outcome.claim

    def strangers(self, claim: Claim) -> Claim:
        """A claim to the same record that is not its holder's."""
        return Claim(claim.record, claim.fingerprint, b"x" * 16)

    def now(self) -> float:
        """Epoch seconds by the clock that `started` and `lease_ends` are told in: this host's."""
        return time.time()

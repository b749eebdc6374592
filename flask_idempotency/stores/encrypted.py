"""Encryption at rest: what a store keeps of responses is unreadable to whoever can read the store."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..engine.records import Claim, Claimed, Completed, InProgress, RecordKey, StoredResponse
from ..engine.store import RecordUnreadable, Store
from .cipher import Cipher, Undecipherable


class EncryptedStore:
    """Wraps any store: `EncryptedStore(RedisStore(…), keys)`; with `IDEMPOTENCY_ENCRYPTION_KEYS`, the extension does.

    The first key encrypts, all decrypt. To rotate: put the new key second everywhere, then first, and take the old one
    away after twice the retention: until then a record may be under it, claimed before and completed or taken over
    since. Each step may be rolled out while processes still run with the configuration before it.

    Status, headers, body and fingerprint are encrypted (AES-256) and bound to their record: moved to another, they are
    corrupted. What is under an unknown key, or corrupted, raises `RecordUnreadable`, and the request does not run.
    So does what was kept before there were keys: switch encryption on with a store that has no records that matter.

    What stays readable: when a record was claimed and expires, whether it is completed, how often it was taken over,
    and how long its answer is; and its identity, a digest of principal and key.

    `id_key` (`IDEMPOTENCY_ENCRYPTION_ID_KEY`): makes the identities of records unreadable, too. Without it they are
    plain digests of principal and key: neither can be read from one, but whoever reads the store can test guesses,
    where principals and keys can be guessed. With it they are keyed digests, and cannot be tested. It stays the same
    when `keys` rotate, since a record under another identity is not found, and its request would run again: processes
    that share a store must have the same one, and it may be set or changed only while the store has no records that
    matter. Should it leak, guesses can be tested as without it; nothing can be decrypted with it.

    What lies beside the store, in the application's own database (the proofs of atomic views, kept requests), is
    encrypted under the same keys, by `cipher`. A store of yours that wraps this one must have that attribute, too.
    """

    def __init__(self, inner: Store, keys: Sequence[str | bytes], *, id_key: str | bytes | None = None) -> None:
        self._inner = inner
        #: What encrypts here, for what is kept elsewhere of the same operations.
        self.cipher = Cipher(keys, id_key=id_key)

    def __repr__(self) -> str:
        return f"EncryptedStore({self._inner!r})"

    def claim(
        self, record: RecordKey, fingerprint: bytes, *, lease: float, retention: float, take_over: bool = True
    ) -> Claimed | InProgress | Completed:
        """See `Store.claim`."""
        kept_as = RecordKey(self.cipher.kept_id(record.id))
        # Alike, since the store compares them.
        encrypted = self.cipher.encrypt_alike(fingerprint, record.id)
        while True:
            outcome = self._inner.claim(kept_as, encrypted, lease=lease, retention=retention, take_over=take_over)
            if isinstance(outcome, Claimed):
                return replace(outcome, claim=replace(outcome.claim, record_id=record.id))
            found = self._decrypt_fingerprint(outcome.fingerprint, record.id)
            if isinstance(outcome, Completed):
                return Completed(found, outcome.response and self._decrypt(outcome.response, record.id))
            lapsed_under_another_key = outcome.lapsed and take_over and encrypted != outcome.fingerprint
            if found != fingerprint or not lapsed_under_another_key:
                return InProgress(found, outcome.lease_ends, outcome.lapsed)
            # The store takes over only what looks the same to it.
            encrypted = outcome.fingerprint

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """See `Store.complete`."""
        encrypted = response and self._encrypt(response, claim.record_id)
        return self._inner.complete(self._kept(claim), encrypted, retention=retention)

    def release(self, claim: Claim) -> bool:
        """See `Store.release`."""
        return self._inner.release(self._kept(claim))

    def renew(self, claims: Iterable[Claim], *, lease: float) -> None:
        """See `Store.renew`."""
        self._inner.renew([self._kept(claim) for claim in claims], lease=lease)

    def purge(self, *, limit: int) -> int:
        """See `Store.purge`."""
        return self._inner.purge(limit=limit)

    def close(self) -> None:
        """See `Store.close`."""
        self._inner.close()

    def _kept(self, claim: Claim) -> Claim:
        return replace(claim, record_id=self.cipher.kept_id(claim.record_id))

    def _encrypt(self, response: StoredResponse, record_id: bytes) -> StoredResponse:
        return StoredResponse("encrypted", (), self.cipher.encrypt(response.pack(), record_id))

    def _decrypt_fingerprint(self, encrypted: bytes, record_id: bytes) -> bytes:
        try:
            return self.cipher.decrypt_alike(encrypted, record_id)
        except Undecipherable as error:
            raise RecordUnreadable(f"the fingerprint of a record is unreadable: {error}") from error

    def _decrypt(self, response: StoredResponse, record_id: bytes) -> StoredResponse:
        try:
            return StoredResponse.unpack(self.cipher.decrypt(response.body, record_id))
        except (Undecipherable, ValueError) as error:
            raise RecordUnreadable(f"a kept response is unreadable: {error}") from error

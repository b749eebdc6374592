"""Encryption at rest: what a store keeps of requests and answers is unreadable to whoever can read the store."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from ..engine.records import Claim, Claimed, Completed, Lapsed, RecordKey, Standing, StoredResponse
from ..engine.store import RecordUnreadable, Store
from .cipher import Cipher, Undecipherable


class EncryptedStore:
    """Wraps any store: `EncryptedStore(RedisStore(…), keys)`; with `IDEMPOTENCY_ENCRYPTION_KEYS`, the extension does.

    The first key encrypts, all decrypt. To rotate: put the new key second everywhere, then first, and take the old one
    away after twice the retention: until then a record may be under it, claimed before and completed or taken over
    since. Each step may be rolled out while processes still run with the configuration before it.

    Status, headers, body and fingerprint are encrypted (AES-256) and bound to their record: moved to another, they are
    corrupted. So are the names and results of steps. The idempotency key, the method and the path do not reach the
    store at all. What is under an unknown key, or corrupted, raises `RecordUnreadable`, and the request does not run.
    So does what was kept before there were keys: switch encryption on with a store that has no records that matter.

    What stays readable: when a record was claimed and expires, how it stands, how often it was attempted, how many
    steps it has, and how long their names, their results and its answer are; and its identity, a digest of principal
    and key.

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

    @property
    def sqlite_path(self) -> str | None:
        """That of the store within, if it has one."""
        path: str | None = getattr(self._inner, "sqlite_path", None)
        return path

    @property
    def of_one_process(self) -> bool:
        """Whether the store within keeps records in the memory of this process."""
        return getattr(self._inner, "of_one_process", False)

    def claim(
        self,
        record: RecordKey,
        fingerprint: bytes,
        *,
        lease: float,
        retention: float,
        take_over: bool,
        durable: bool,
    ) -> Standing:
        """See `Store.claim`."""
        kept_as = self._kept_record(record.id)
        # Alike, since the store compares them.
        encrypted = self.cipher.encrypt_alike(fingerprint, record.id)
        while True:
            outcome = self._inner.claim(
                kept_as, encrypted, lease=lease, retention=retention, take_over=take_over, durable=durable
            )
            if isinstance(outcome, Claimed):
                return replace(outcome, claim=Claim(record, fingerprint, outcome.claim.token))
            found = self._decrypt_fingerprint(outcome.fingerprint, record.id)
            if isinstance(outcome, Completed):
                return Completed(found, outcome.response and self._decrypt(outcome.response, record.id))
            if not isinstance(outcome, Lapsed) or found != fingerprint or encrypted == outcome.fingerprint:
                return replace(outcome, fingerprint=found)
            # Under another key. The store lets only what looks the same to it go on.
            encrypted = outcome.fingerprint

    def answering(self, claim: Claim, *, lease: float) -> bool:
        """See `Store.answering`."""
        return self._inner.answering(self._kept(claim), lease=lease)

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """See `Store.complete`."""
        encrypted = response and self._encrypt(response, claim.record.id)
        return self._inner.complete(self._kept(claim), encrypted, retention=retention)

    def release(self, claim: Claim, *, retention: float) -> bool:
        """See `Store.release`."""
        return self._inner.release(self._kept(claim), retention=retention)

    def abandon(self, claim: Claim) -> bool:
        """See `Store.abandon`."""
        return self._inner.abandon(self._kept(claim))

    def resolve(self, record_id: bytes, *, done: bool, retention: float) -> bool:
        """See `Store.resolve`."""
        return self._inner.resolve(self.cipher.kept_id(record_id), done=done, retention=retention)

    def renew(self, claims: Collection[Claim], *, lease: float) -> set[Claim]:
        """See `Store.renew`."""
        kept = {self._kept(claim): claim for claim in claims}
        return {kept[fenced] for fenced in self._inner.renew(kept.keys(), lease=lease)}

    def load_steps(self, claim: Claim) -> Mapping[str, bytes | None]:
        """See `Store.load_steps`."""
        record_id = claim.record.id
        steps: dict[str, bytes | None] = {}
        try:
            for written, result in self._inner.load_steps(self._kept(claim)).items():
                name = self._read_name(written, record_id)
                if result is not None:
                    steps[name] = self.cipher.decrypt(result, _owner_of_result(record_id, name))
                else:
                    # Its result may stand under the name that another key gives it.
                    steps.setdefault(name, None)
        except (Undecipherable, ValueError) as error:
            raise RecordUnreadable(f"a kept step is unreadable: {error}") from error
        return steps

    def keep_step(self, claim: Claim, name: str, result: bytes | None, *, retention: float) -> bool:
        """See `Store.keep_step`."""
        record_id = claim.record.id
        written, *_ = self._write_name(name, record_id)
        encrypted = None if result is None else self.cipher.encrypt(result, _owner_of_result(record_id, name))
        return self._inner.keep_step(self._kept(claim), written, encrypted, retention=retention)

    def drop_step(self, claim: Claim, name: str) -> bool:
        """See `Store.drop_step`."""
        kept = self._kept(claim)
        return all(self._inner.drop_step(kept, written) for written in self._write_name(name, claim.record.id))

    def purge(self, *, limit: int) -> int:
        """See `Store.purge`."""
        return self._inner.purge(limit=limit)

    def close(self) -> None:
        """See `Store.close`."""
        self._inner.close()

    def _kept_record(self, record_id: bytes) -> RecordKey:
        # The key and what it was sent to stay out altogether.
        return RecordKey(self.cipher.kept_id(record_id))

    def _kept(self, claim: Claim) -> Claim:
        record_id = claim.record.id
        encrypted = self.cipher.encrypt_alike(claim.fingerprint, record_id)
        return Claim(self._kept_record(record_id), encrypted, claim.token)

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

    def _write_name(self, name: str, record_id: bytes) -> list[str]:
        """What a step of this name is called in the store, under each of the keys, the first one first."""
        plain = _NAME_OF_STEP + name.encode("utf-8", "surrogatepass")
        return [urlsafe_b64encode(each).decode() for each in self.cipher.encrypt_alike_under_each(plain, record_id)]

    def _read_name(self, written: str, record_id: bytes) -> str:
        plain = self.cipher.decrypt_alike(urlsafe_b64decode(written), record_id)
        return plain.removeprefix(_NAME_OF_STEP).decode("utf-8", "surrogatepass")


#: In front of the name of a step, so that it cannot pass for a fingerprint, nor be empty, which SIV does not encrypt.
_NAME_OF_STEP = b"step:"


def _owner_of_result(record_id: bytes, name: str) -> bytes:
    """What the result of a step is bound to: moved to another step, it is corrupted."""
    return record_id + _NAME_OF_STEP + name.encode("utf-8", "surrogatepass")

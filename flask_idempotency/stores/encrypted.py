"""Encryption at rest: what a store keeps of responses is unreadable to whoever can read the store."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Self

from ..engine.records import Claim, Claimed, Completed, InProgress, RecordKey, StoredResponse
from ..engine.store import Store, StoreUnavailable

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
except ImportError as error:
    raise ImportError("EncryptedStore needs cryptography: pip install 'flask-idempotency[encryption]'") from error

#: Bytes that name a key, in front of everything that was made with it.
_NAME = 4

#: Bytes of a nonce (NIST SP 800-38D, section 8.2.2: random ones, for fewer than 2**32 responses under one key).
_NONCE = 12

_SHORTEST_SECRET = 32


@dataclass(frozen=True, slots=True)
class _Key:
    name: bytes
    seal: AESSIV
    cipher: AESGCM

    @classmethod
    def of(cls, secret: str | bytes) -> Self:
        raw = _bytes_of(secret)
        return cls(
            _derive(raw, b"name", _NAME),
            AESSIV(_derive(raw, b"fingerprint", 64)),
            AESGCM(_derive(raw, b"response", 32)),
        )

    def encrypt_fingerprint(self, fingerprint: bytes, record_id: bytes) -> bytes:
        """The same for the same fingerprint of one record, since the store compares them (AES-SIV, RFC 5297)."""
        return self.name + self.seal.encrypt(fingerprint, [record_id])

    def decrypt_fingerprint(self, encrypted: bytes, record_id: bytes) -> bytes:
        return self.seal.decrypt(encrypted[_NAME:], [record_id])

    def encrypt(self, response: StoredResponse, record_id: bytes) -> StoredResponse:
        nonce = os.urandom(_NONCE)
        # Bound to its record: an answer that is moved to another record is none.
        return StoredResponse(
            "encrypted", (), self.name + nonce + self.cipher.encrypt(nonce, response.pack(), record_id)
        )

    def decrypt(self, response: StoredResponse, record_id: bytes) -> StoredResponse:
        nonce, text = response.body[_NAME : _NAME + _NONCE], response.body[_NAME + _NONCE :]
        return StoredResponse.unpack(self.cipher.decrypt(nonce, text, record_id))


def _bytes_of(secret: str | bytes) -> bytes:
    raw = secret.encode() if isinstance(secret, str) else secret
    if len(raw) < _SHORTEST_SECRET:
        raise ValueError(
            f"An encryption key must be {_SHORTEST_SECRET} characters or more of chance, such as "
            "secrets.token_urlsafe(32) gives."
        )
    return raw


def _derive(raw: bytes, purpose: bytes, size: int) -> bytes:
    return blake2b(raw[64:], key=raw[:64], digest_size=size, person=purpose).digest()


class EncryptedStore:
    """Wraps any store: `EncryptedStore(RedisStore(…), keys)`; with `IDEMPOTENCY_ENCRYPTION_KEYS`, the extension does.

    The first key encrypts, all decrypt. To rotate: put the new key second everywhere, then first, and take the old one
    away after twice the retention: until then a record may be under it, claimed before and completed or taken over
    since. Each step may be rolled out while processes still run with the configuration before it.

    Status, headers, body and fingerprint are encrypted (AES-256) and bound to their record: moved to another, they are
    corrupted. What is under an unknown key, or corrupted, raises `StoreUnavailable`, and the request does not run.

    `id_key`: makes the identities of records unreadable, too. Without it they are plain digests of principal and key:
    neither can be read from one, but whoever reads the store can test guesses, where principals and keys can be
    guessed. With it they are keyed digests, and cannot be tested. It stays the same when `keys` rotate, since a record
    under another identity is not found, and its request would run again: processes that share a store must have the
    same one, and it may be set or changed only while the store has no records that matter. Should it leak, guesses can
    be tested as without it; nothing can be decrypted with it.
    """

    def __init__(self, inner: Store, keys: Sequence[str | bytes], *, id_key: str | bytes | None = None) -> None:
        if isinstance(keys, str | bytes) or not keys:
            raise ValueError("EncryptedStore needs a list of one key or more; the first encrypts, all decrypt.")
        self._inner = inner
        known = [_Key.of(secret) for secret in keys]
        self._first = known[0]
        self._by_name = {key.name: key for key in known}
        self._id_key = None if id_key is None else _derive(_bytes_of(id_key), b"id key", 64)

    def __repr__(self) -> str:
        return f"EncryptedStore({self._inner!r})"

    def claim(
        self, record: RecordKey, fingerprint: bytes, *, lease: float, retention: float, take_over: bool = True
    ) -> Claimed | InProgress | Completed:
        """See `Store.claim`."""
        kept_as = RecordKey(self._kept_id(record.id))
        encrypted = self._first.encrypt_fingerprint(fingerprint, record.id)
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
        encrypted = response and self._first.encrypt(response, claim.record_id)
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
        return replace(claim, record_id=self._kept_id(claim.record_id))

    def _kept_id(self, record_id: bytes) -> bytes:
        """Under what the inner store keeps the record."""
        if self._id_key is None:
            return record_id
        return blake2b(record_id, key=self._id_key, digest_size=len(record_id)).digest()

    def _key_of(self, made: bytes) -> _Key:
        key = self._by_name.get(made[:_NAME])
        if key is None:
            raise StoreUnavailable("a record is not under any of the known encryption keys")
        return key

    def _decrypt_fingerprint(self, encrypted: bytes, record_id: bytes) -> bytes:
        try:
            return self._key_of(encrypted).decrypt_fingerprint(encrypted, record_id)
        except InvalidTag as error:
            raise StoreUnavailable("a fingerprint cannot be decrypted") from error

    def _decrypt(self, response: StoredResponse, record_id: bytes) -> StoredResponse:
        try:
            return self._key_of(response.body).decrypt(response, record_id)
        except (InvalidTag, ValueError) as error:
            raise StoreUnavailable("a kept response cannot be decrypted") from error

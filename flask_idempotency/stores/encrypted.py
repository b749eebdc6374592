"""Encryption at rest: what a store keeps of responses is unreadable to whoever can read the store."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
        raw = secret.encode() if isinstance(secret, str) else secret
        if len(raw) < _SHORTEST_SECRET:
            raise ValueError(
                f"An encryption key must be {_SHORTEST_SECRET} characters or more of chance, such as "
                "secrets.token_urlsafe(32) gives."
            )

        def derive(purpose: bytes, size: int) -> bytes:
            return blake2b(raw[64:], key=raw[:64], digest_size=size, person=purpose).digest()

        return cls(derive(b"name", _NAME), AESSIV(derive(b"fingerprint", 64)), AESGCM(derive(b"response", 32)))

    def encrypt_fingerprint(self, fingerprint: bytes) -> bytes:
        """The same for the same fingerprint, since the store compares them (AES-SIV, RFC 5297)."""
        return self.name + self.seal.encrypt(fingerprint, None)

    def decrypt_fingerprint(self, encrypted: bytes) -> bytes:
        return self.seal.decrypt(encrypted[_NAME:], None)

    def encrypt(self, response: StoredResponse, record_id: bytes) -> StoredResponse:
        nonce = os.urandom(_NONCE)
        # Bound to its record: an answer that is moved to another record is none.
        return StoredResponse(
            "encrypted", (), self.name + nonce + self.cipher.encrypt(nonce, response.pack(), record_id)
        )

    def decrypt(self, response: StoredResponse, record_id: bytes) -> StoredResponse:
        nonce, text = response.body[_NAME : _NAME + _NONCE], response.body[_NAME + _NONCE :]
        return StoredResponse.unpack(self.cipher.decrypt(nonce, text, record_id))


class EncryptedStore:
    """Wraps any store: `EncryptedStore(RedisStore(…), keys)`; with `IDEMPOTENCY_ENCRYPTION_KEYS`, the extension does.

    The first key encrypts, all decrypt. To rotate: put a new key first everywhere, wait until the retention is over,
    take the old one away. While processes with the old configuration still run, put the new key second first, and
    first only once all know it.

    Status, headers, body and fingerprint are encrypted (AES-256). The record's identity stays a plain digest of
    principal and key, the same under every key, so that no rotation lets a request run twice: neither can be read from
    it, but whoever reads the store can test guesses of a key, and keys should not be guessable. What is under an
    unknown key, or corrupted, raises `StoreUnavailable`, and the request does not run.
    """

    def __init__(self, inner: Store, keys: Sequence[str | bytes]) -> None:
        if isinstance(keys, str | bytes) or not keys:
            raise ValueError("EncryptedStore needs a list of one key or more; the first encrypts, all decrypt.")
        self._inner = inner
        known = [_Key.of(secret) for secret in keys]
        self._first = known[0]
        self._by_name = {key.name: key for key in known}

    def __repr__(self) -> str:
        return f"EncryptedStore({self._inner!r})"

    def claim(
        self, record: RecordKey, fingerprint: bytes, *, lease: float, retention: float, take_over: bool = True
    ) -> Claimed | InProgress | Completed:
        """See `Store.claim`."""
        encrypted = self._first.encrypt_fingerprint(fingerprint)
        while True:
            outcome = self._inner.claim(record, encrypted, lease=lease, retention=retention, take_over=take_over)
            if isinstance(outcome, Claimed):
                return outcome
            found = self._decrypt_fingerprint(outcome.fingerprint)
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
        return self._inner.complete(claim, encrypted, retention=retention)

    def release(self, claim: Claim) -> bool:
        """See `Store.release`."""
        return self._inner.release(claim)

    def renew(self, claims: Iterable[Claim], *, lease: float) -> None:
        """See `Store.renew`."""
        self._inner.renew(claims, lease=lease)

    def purge(self, *, limit: int) -> int:
        """See `Store.purge`."""
        return self._inner.purge(limit=limit)

    def close(self) -> None:
        """See `Store.close`."""
        self._inner.close()

    def _key_of(self, made: bytes) -> _Key:
        key = self._by_name.get(made[:_NAME])
        if key is None:
            raise StoreUnavailable("a record is not under any of the known encryption keys")
        return key

    def _decrypt_fingerprint(self, encrypted: bytes) -> bytes:
        try:
            return self._key_of(encrypted).decrypt_fingerprint(encrypted)
        except InvalidTag as error:
            raise StoreUnavailable("a fingerprint cannot be decrypted") from error

    def _decrypt(self, response: StoredResponse, record_id: bytes) -> StoredResponse:
        try:
            return self._key_of(response.body).decrypt(response, record_id)
        except (InvalidTag, ValueError) as error:
            raise StoreUnavailable("a kept response cannot be decrypted") from error

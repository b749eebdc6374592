"""Encryption under keys that rotate: what is written is unreadable, and bound to what it belongs to."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Self

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
except ImportError as error:
    raise ImportError("Encryption needs cryptography: pip install 'flask-idempotency[encryption]'") from error

#: Bytes that name a key, in front of everything that was made with it.
_NAME = 4

#: Bytes of a nonce (NIST SP 800-38D, section 8.2.2: random ones, for fewer than 2**32 messages under one key).
_NONCE = 12

_SHORTEST_SECRET = 32


class Undecipherable(Exception):
    """It is under none of the known keys, corrupted, or belongs elsewhere. Its text names neither key nor content."""


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
            # The words are those of the first uses, and stay: they are part of what is on disk.
            AESSIV(_derive(raw, b"fingerprint", 64)),
            AESGCM(_derive(raw, b"response", 32)),
        )


class Cipher:
    """Encrypts under the first of its keys and decrypts under any; `id_key` makes identities unreadable.

    Whatever is encrypted is bound to `owner`, the bytes that say what it belongs to: with any other, it is
    `Undecipherable`. AES-256, in GCM (NIST SP 800-38D) or, where equal things must look the same, SIV (RFC 5297).
    Raises `ValueError` for keys that could be guessed.
    """

    def __init__(self, keys: Sequence[str | bytes], *, id_key: str | bytes | None = None) -> None:
        if isinstance(keys, str | bytes) or not keys:
            raise ValueError("Encryption needs a list of one key or more; the first encrypts, all decrypt.")
        known = [_Key.of(secret) for secret in keys]
        self._first = known[0]
        self._by_name = {key.name: key for key in known}
        self._id_key = None if id_key is None else _derive(_bytes_of(id_key), b"id key", 64)

    def kept_id(self, record_id: bytes) -> bytes:
        """Under what a record of this identity is kept: itself, or, with `id_key`, what no guess can be tested by."""
        if self._id_key is None:
            return record_id
        return blake2b(record_id, key=self._id_key, digest_size=len(record_id)).digest()

    def encrypt(self, plain: bytes, owner: bytes) -> bytes:
        """Different each time, so that nothing can be compared."""
        nonce = os.urandom(_NONCE)
        return self._first.name + nonce + self._first.cipher.encrypt(nonce, plain, owner)

    def decrypt(self, encrypted: bytes, owner: bytes) -> bytes:
        """The inverse of `encrypt`."""
        nonce, text = encrypted[_NAME : _NAME + _NONCE], encrypted[_NAME + _NONCE :]
        try:
            return self._key_of(encrypted).cipher.decrypt(nonce, text, owner)
        except (InvalidTag, ValueError) as error:
            raise Undecipherable("it cannot be decrypted") from error

    def encrypt_alike(self, plain: bytes, owner: bytes) -> bytes:
        """The same each time for the same owner, so that a store can compare; different for every other owner."""
        return self._first.name + self._first.seal.encrypt(plain, [owner])

    def encrypt_alike_under_each(self, plain: bytes, owner: bytes) -> list[bytes]:
        """What `encrypt_alike` gives under each of the keys, the first one first: it stands under one of these."""
        return [key.name + key.seal.encrypt(plain, [owner]) for key in self._by_name.values()]

    def decrypt_alike(self, encrypted: bytes, owner: bytes) -> bytes:
        """The inverse of `encrypt_alike`."""
        try:
            return self._key_of(encrypted).seal.decrypt(encrypted[_NAME:], [owner])
        except (InvalidTag, ValueError) as error:
            raise Undecipherable("it cannot be decrypted") from error

    def _key_of(self, made: bytes) -> _Key:
        key = self._by_name.get(made[:_NAME])
        if key is None:
            raise Undecipherable("it is not under any of the known encryption keys")
        return key


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

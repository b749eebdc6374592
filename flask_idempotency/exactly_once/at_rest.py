"""How what lies in the application's own database is written: plain, or encrypted as the store's records are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine.store import RecordUnreadable

if TYPE_CHECKING:
    from ..stores.cipher import Cipher


class AtRest:
    """Writes and reads the contents of one kind of row. With no `cipher`, as they are.

    Encrypted contents are bound to `kind` and to the row's identity: moved to another row, or from a row of another
    kind, they are unreadable. Identities and times stay readable, so that rows can be found and expire; with the
    cipher's `id_key`, identities are keyed digests that no guess of principal and key can be tested by.
    """

    def __init__(self, kind: bytes, cipher: Cipher | None) -> None:
        self._kind = kind
        self._cipher = cipher

    def id_of(self, record_id: bytes) -> bytes:
        """Under what the row of this operation stands."""
        return record_id if self._cipher is None else self._cipher.kept_id(record_id)

    def write(self, plain: bytes, row_id: bytes) -> bytes:
        """`plain`, as the row of `row_id` has it."""
        return plain if self._cipher is None else self._cipher.encrypt(plain, self._kind + row_id)

    def read(self, written: bytes, row_id: bytes) -> bytes:
        """The inverse of `write`.

        Raises `RecordUnreadable` for what is under an unknown key, corrupted, or plain where nothing should be.
        """
        if self._cipher is None:
            return written
        from ..stores.cipher import Undecipherable

        try:
            return self._cipher.decrypt(written, self._kind + row_id)
        except Undecipherable as error:
            raise RecordUnreadable(f"a row is unreadable: {error}") from error

"""Where records live. A driver is imported only in its own store's file, and that file only when it is asked for."""

from typing import TYPE_CHECKING

from .memory import MemoryStore
from .sqlite import SQLiteStore
from .url import open_store

if TYPE_CHECKING:
    from .encrypted import EncryptedStore
    from .redis import RedisStore
    from .sqlalchemy import SQLAlchemyStore

__all__ = ["EncryptedStore", "MemoryStore", "RedisStore", "SQLAlchemyStore", "SQLiteStore", "open_store"]


def __getattr__(name: str) -> object:
    if name == "EncryptedStore":
        from .encrypted import EncryptedStore

        return EncryptedStore
    if name == "RedisStore":
        from .redis import RedisStore

        return RedisStore
    if name == "SQLAlchemyStore":
        from .sqlalchemy import SQLAlchemyStore

        return SQLAlchemyStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

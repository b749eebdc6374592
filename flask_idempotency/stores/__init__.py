"""Where records live. A driver is imported only in its own store's file, and that file only when it is asked for."""

from .memory import MemoryStore
from .sqlite import SQLiteStore
from .url import open_store

__all__ = ["MemoryStore", "SQLiteStore", "open_store"]

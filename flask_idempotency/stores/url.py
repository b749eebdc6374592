"""Opens the store that a URL names."""

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from ..engine.store import Store
from .memory import MemoryStore
from .sqlite import SQLiteStore


def open_store(url: str, *, directory: str | Path = ".") -> Store:
    """The store behind `url`: `memory://`, or `sqlite:///path` (four slashes for an absolute path).

    A relative path starts at `directory`. `sqlite:///path?durable=false` trades power-loss safety for speed; see
    `SQLiteStore`. Raises `ValueError` for a URL that names no store.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        _no_rest(url, parts.netloc + parts.path + parts.query)
        return MemoryStore()
    if parts.scheme == "sqlite":
        if parts.netloc:
            raise ValueError(f"A SQLite URL has three slashes, or four before an absolute path: {url!r}.")
        return SQLiteStore(Path(directory) / unquote(parts.path[1:]), **_sqlite_options(url, parts.query))
    raise ValueError(f"No store has the scheme {parts.scheme!r}; known are memory:// and sqlite:///path.")


def _no_rest(url: str, rest: str) -> None:
    if rest:
        raise ValueError(f"Nothing may follow memory://, as it does in {url!r}.")


def _sqlite_options(url: str, query: str) -> dict[str, bool]:
    options = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name != "durable" or value not in ("true", "false"):
            raise ValueError(f"The only option of a SQLite URL is durable=true or durable=false, not {name}={value}.")
        options[name] = value == "true"
    return options

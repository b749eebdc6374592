"""Opens the store that a URL names."""

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from ..engine.store import Store
from .memory import MemoryStore
from .sqlite import SQLiteStore

_REDIS = ("redis", "rediss", "valkey", "valkeys")
_SQL = ("postgresql", "mysql", "mariadb", "sqlite")


def open_store(url: str, *, directory: str | Path = ".") -> Store:
    """The store behind `url`; nothing is opened or connected to before its first use.

    `memory://`; `sqlite:///path` (four slashes for an absolute path; a relative one starts at `directory`;
    `?durable=false` trades power-loss safety for speed, see `SQLiteStore`); `redis://…`, `rediss://…`, `valkey://…`,
    `redis+sentinel://…`, `redis+cluster://…` (see `RedisStore.from_url`); and SQLAlchemy's URLs with a driver, such as
    `postgresql+psycopg://…` and `mysql+pymysql://…` (see `SQLAlchemyStore`).

    Raises `ValueError` for a URL that names no store, and `ImportError` that says what to install.
    """
    parts = urlsplit(url)
    scheme = parts.scheme
    if scheme == "memory":
        if parts.netloc + parts.path + parts.query:
            raise ValueError("Nothing may follow memory://.")
        return MemoryStore()
    if scheme == "sqlite":
        if parts.netloc:
            raise ValueError("A SQLite URL has three slashes, or four before an absolute path.")
        path = unquote(parts.path[1:])
        place = path if path == ":memory:" else Path(directory) / path
        return SQLiteStore(place, **_sqlite_options(parts.query))
    if scheme.partition("+")[0] in _REDIS:
        from .redis import RedisStore

        return RedisStore.from_url(url)
    if scheme.partition("+")[0] in _SQL:
        from .sqlalchemy import SQLAlchemyStore

        return SQLAlchemyStore.from_url(url)
    # Not the URL itself: it may have a password in it.
    known = "memory://, sqlite:///path, " + ", ".join(
        f"{name}://" for name in (*_REDIS, "redis+sentinel", "redis+cluster")
    )
    raise ValueError(
        f"No store has the scheme {scheme!r}; known are {known}, and SQLAlchemy's URLs of {', '.join(_SQL)}."
    )


def _sqlite_options(query: str) -> dict[str, bool]:
    options = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name != "durable" or value not in ("true", "false"):
            raise ValueError("The only option of a SQLite URL is durable=true or durable=false.")
        options[name] = value == "true"
    return options

"""Opens the store that a URL names."""

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from ..engine.store import Store
from .memory import MemoryStore
from .sqlite import SQLiteStore

_REDIS = ("redis", "rediss", "valkey", "valkeys")
_SQL = ("postgresql", "mysql", "mariadb", "sqlite")


def open_store(url: str, *, directory: str | Path = ".", durable: bool | None = None) -> Store:
    """The store behind `url`; nothing is opened or connected to before its first use.

    `memory://`; `sqlite:///path` (four slashes for an absolute path; a relative one starts at `directory`);
    `redis://…`, `rediss://…`, `valkey://…`, `redis+sentinel://…`, `redis+cluster://…` (see `RedisStore.from_url`); and
    SQLAlchemy's URLs with a driver, such as `postgresql+psycopg://…` and `mysql+pymysql://…` (see
    `SQLAlchemyStore.from_url`).

    `durable` is `SQLiteStore`'s, and True unless given: False trades power-loss safety for speed. In the URL, it is
    `?durable=false`. Other stores have no such choice, and refuse it.

    Raises `ValueError` for a URL that names no store, and `ImportError` that says what to install.
    """
    parts = urlsplit(url)
    scheme = parts.scheme
    if durable is not None and scheme != "sqlite":
        raise ValueError(f"durable is an option of the SQLite store; {scheme}:// has no such choice.")
    if scheme == "memory":
        if parts.netloc + parts.path + parts.query:
            raise ValueError("Nothing may follow memory://.")
        return MemoryStore()
    if scheme == "sqlite":
        if parts.netloc:
            raise ValueError("A SQLite URL has three slashes, or four before an absolute path.")
        path = unquote(parts.path[1:])
        if path.endswith("/") or not path:  # of a folder, only the requests would hear
            raise ValueError("A SQLite URL ends in the name of a file, such as sqlite:///idempotency.db.")
        place = path if path == ":memory:" else Path(directory) / path
        return SQLiteStore(place, durable=_durable(parts.query, durable))
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


def _durable(query: str, given: bool | None) -> bool:
    found = parse_qsl(query, keep_blank_values=True)
    if not found:
        return given is not False
    if found not in ([("durable", "true")], [("durable", "false")]):
        raise ValueError("The only option of a SQLite URL is durable=true or durable=false.")
    in_url = found == [("durable", "true")]
    if given not in (None, in_url):
        raise ValueError("The URL says whether the store is durable, and the option says otherwise.")
    return in_url

"""The least code that claims and keeps: no fingerprint, principal, fencing, lease, expiry or problem documents.

What is above these lines is the price of what they leave out; what is below, nobody who uses the store can save.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flask import Response, g, request

from .servers import Servers
from .subjects import KEYED, MEMORY, POSTGRESQL, SQLITE, SQLITE_FAST, VALKEY, Built, Subject
from .workload import Orders, WSGIApp, new_keys

#: Gives what is kept under a key, or claims it: then nothing (None).
Claim = Callable[[str], bytes | None]
Keep = Callable[[str, bytes], object]

_CHECKS = "none"


def floors() -> Iterator[Subject]:
    """The floor of each store around the WSGI application, and of those of one machine in Flask's hooks, too."""
    yield Subject("floor", "dict, in Flask's hooks", MEMORY, "none", _CHECKS, _in_hooks(_memory), KEYED)
    yield Subject("floor", "dict", MEMORY, "none", _CHECKS, _around(_memory), KEYED)
    one, fast = _sqlite("NORMAL", "FULL"), _sqlite("NORMAL", "NORMAL")
    yield Subject("floor", "one sync, in Flask's hooks", SQLITE, "power loss", _CHECKS, _in_hooks(one), KEYED)
    yield Subject("floor", "one sync", SQLITE, "power loss", _CHECKS, _around(one), KEYED)
    yield Subject("floor", "two syncs", SQLITE, "power loss, both", _CHECKS, _around(_sqlite("FULL", "FULL")), KEYED)
    yield Subject("floor", "no sync, in Flask's hooks", SQLITE_FAST, "process crash", _CHECKS, _in_hooks(fast), KEYED)
    yield Subject("floor", "no sync", SQLITE_FAST, "process crash", _CHECKS, _around(fast), KEYED)
    yield Subject("floor", "redis-py, SET NX GET", VALKEY, "memory only", _CHECKS, _around(_redis), KEYED)
    yield Subject("floor", "psycopg, two statements", POSTGRESQL, "power loss, both", _CHECKS, _around(_psycopg), KEYED)


def _around(make: Callable[[Servers], tuple[Claim, Keep]]) -> Callable[[Servers], Built]:
    def build(servers: Servers) -> Built:
        claim, keep = make(servers)
        orders = Orders().route()
        return Built(orders, _middleware(orders.flask.wsgi_app, claim, keep), getattr(claim, "forget", lambda: None))

    return build


def _middleware(app: WSGIApp, claim: Claim, keep: Keep) -> WSGIApp:
    """Keeps the status line, one header and the body, split by newlines: the head is known to have none."""

    def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        key = environ["HTTP_IDEMPOTENCY_KEY"]
        kept = claim(key)
        if kept is not None:
            status, content_type, body = kept.split(b"\n", 2)
            start_response(status.decode(), [("Content-Type", content_type.decode())])
            return [body]
        head: list[str] = []

        def note(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            head.extend((status, dict(headers)["Content-Type"]))
            return start_response(status, headers)

        chunks = app(environ, note)
        body = b"".join(chunks)
        keep(key, "\n".join(head).encode() + b"\n" + body)
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
        return [body]

    return serve


class _Dict(dict[str, bytes]):
    """Claims and keeps in memory."""

    def __call__(self, key: str) -> bytes | None:
        return self.setdefault(key, b"") or None

    def forget(self) -> None:
        self.clear()


def _memory(servers: Servers) -> tuple[Claim, Keep]:
    kept = _Dict()
    return kept, kept.__setitem__


def _in_hooks(make: Callable[[Servers], tuple[Claim, Keep]]) -> Callable[[Servers], Built]:
    def build(servers: Servers) -> Built:
        claim, keep = make(servers)
        orders = Orders().route()

        def before() -> Response | None:
            answer = claim(request.environ["HTTP_IDEMPOTENCY_KEY"])
            if answer is None:
                return None
            g.replayed = True
            return Response(answer, 201, content_type="application/json")

        def after(response: Response) -> Response:
            if "replayed" not in g:
                keep(request.environ["HTTP_IDEMPOTENCY_KEY"], response.get_data())
            return response

        orders.flask.before_request(before)
        orders.flask.after_request(after)
        return Built(orders, orders.flask.wsgi_app, getattr(claim, "forget", lambda: None))

    return build


def _sqlite(of_claim: str, of_answer: str) -> Callable[[Servers], tuple[Claim, Keep]]:
    """Each commit with the `synchronous` that is named."""

    def make(servers: Servers) -> tuple[Claim, Keep]:
        connection = sqlite3.connect(servers.folder / f"{new_keys(1)[0]}.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={of_claim}")
        connection.execute("CREATE TABLE kept (key TEXT PRIMARY KEY, answer BLOB) WITHOUT ROWID")

        def claim(key: str) -> bytes | None:
            found = connection.execute("SELECT answer FROM kept WHERE key = ?", (key,)).fetchone()
            if found is None:
                connection.execute("INSERT INTO kept (key) VALUES (?)", (key,))
                return None
            answer: bytes = found[0]
            return answer

        def keep(key: str, answer: bytes) -> None:
            if of_answer != of_claim:
                connection.executescript(f"PRAGMA synchronous={of_answer}")
            connection.execute("UPDATE kept SET answer = ? WHERE key = ?", (answer, key))
            if of_answer != of_claim:
                connection.executescript(f"PRAGMA synchronous={of_claim}")

        return claim, keep

    return make


def _redis(servers: Servers) -> tuple[Claim, Keep]:
    import redis

    client = redis.Redis.from_url(servers.valkey_url())

    def claim(key: str) -> bytes | None:
        found: Any = client.set(f"floor:{key}", b"", nx=True, get=True, ex=86400)
        return found or None

    def keep(key: str, answer: bytes) -> None:
        client.set(f"floor:{key}", answer, ex=86400)

    return claim, keep


def _psycopg(servers: Servers) -> tuple[Claim, Keep]:
    import psycopg

    connection = psycopg.connect(servers.postgresql_url("postgresql"), autocommit=True, prepare_threshold=1)
    connection.execute("CREATE TABLE IF NOT EXISTS floor_kept (key text PRIMARY KEY, answer bytea)")
    statement = """
        WITH claimed AS (INSERT INTO floor_kept (key) VALUES (%(key)s) ON CONFLICT DO NOTHING RETURNING 1)
        SELECT answer FROM floor_kept WHERE key = %(key)s AND NOT EXISTS (SELECT FROM claimed)
    """

    def claim(key: str) -> bytes | None:
        found = connection.execute(statement, {"key": key}, binary=True).fetchone()
        return None if found is None else bytes(found[0])

    def keep(key: str, answer: bytes) -> None:
        connection.execute("UPDATE floor_kept SET answer = %s WHERE key = %s", (answer, key))

    return claim, keep

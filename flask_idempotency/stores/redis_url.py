"""Reads the URLs that name a Redis or Valkey server, a service that Sentinels watch, or a cluster."""

# mypy: allow-untyped-calls
# redis-py declares some of its methods without types.

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry

Client = redis.Redis | redis.RedisCluster

#: Seconds that a reply, and a connection, may take where the URL does not say: no request hangs for longer.
_TIMEOUT = 2.0

_SCHEMES = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}  # whether it means TLS

_URL = re.compile(
    r"(?P<scheme>[a-z]+)(?:\+(?P<kind>[a-z]+))?://"
    r"(?:(?P<username>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?"
    r"(?P<hosts>[^@/?#]*)(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?"
)

_HOST = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[^:\[\]]*))(?::(?P<port>\d{1,5}))?")


def _yes_or_no(value: str) -> bool:
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[value.lower()]


#: Options that the store itself understands.
_STORE_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "prefix": str,
    "min_replicas": int,
    "replica_timeout": float,
}

#: Options that go to redis-py as they are, under its names.
_CONNECTION_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "socket_timeout": float,
    "socket_connect_timeout": float,
    "socket_keepalive": _yes_or_no,
    "health_check_interval": int,
    "max_connections": int,
    "client_name": str,
    "protocol": int,
    "username": str,
    "password": str,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "ssl_cert_reqs": str,
    "ssl_check_hostname": _yes_or_no,
}

#: Credentials of the Sentinels, which differ from those of the servers they watch.
_SENTINEL_OPTIONS: Mapping[str, Callable[[str], Any]] = {"sentinel_username": str, "sentinel_password": str}


@dataclass(frozen=True, slots=True)
class RedisURL:
    """What a URL says: where the server is (without credentials), how to reach it, and the options of the
    store and of its connections."""

    where: str
    connect: Callable[[], Client]
    options: Mapping[str, Any]
    connection: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Parts:
    """A URL, read but not yet understood."""

    hosts: list[tuple[str, int | None]]
    path: list[str]
    connection: dict[str, Any]
    sentinel: dict[str, Any]


def read_url(url: str) -> RedisURL:
    """Understand `url`; nothing is connected to yet. Raises `ValueError`, whose text never holds the credentials."""
    found = _URL.fullmatch(url)
    if found is None or found["scheme"] not in _SCHEMES or found["kind"] not in (None, "sentinel", "cluster"):
        raise ValueError(
            "A Redis URL is redis://host:port/db, rediss:// for TLS, valkey:// or valkeys://, "
            "redis+sentinel://host:port,host:port/service/db or redis+cluster://host:port,host:port; what stands "
            "in a user name or a password is percent-encoded."
        )
    known = {**_STORE_OPTIONS, **_CONNECTION_OPTIONS, **(_SENTINEL_OPTIONS if found["kind"] == "sentinel" else {})}
    options = _read_options(found["query"] or "", known)
    connection: dict[str, Any] = {
        "socket_timeout": _TIMEOUT,
        "socket_connect_timeout": _TIMEOUT,
        "ssl": _SCHEMES[found["scheme"]],
    }
    connection |= {name: unquote(found[name]) for name in ("username", "password") if found[name]}
    connection |= {name: value for name, value in options.items() if name in _CONNECTION_OPTIONS}
    parts = _Parts(
        hosts=[_read_host(host) for host in found["hosts"].split(",")],
        path=[unquote(part) for part in (found["path"] or "").split("/") if part],
        connection=connection,
        sentinel={name: value for name, value in options.items() if name in _SENTINEL_OPTIONS},
    )
    where, connect = {None: _standalone, "sentinel": _sentinel, "cluster": _cluster}[found["kind"]](parts)
    ours = {name: value for name, value in options.items() if name in _STORE_OPTIONS}
    return RedisURL(where, connect, ours, connection)


def _standalone(parts: _Parts) -> tuple[str, Callable[[], Client]]:
    if len(parts.hosts) != 1:
        raise ValueError("redis:// names one server; for several there are redis+sentinel:// and redis+cluster://.")
    if len(parts.path) > 1:
        raise ValueError("After the server a redis:// URL has the number of its database, and nothing more.")
    (host, port), database = parts.hosts[0], _database(parts.path)
    port = port or 6379

    def connect() -> Client:
        return redis.Redis(host=host, port=port, db=database, retry=_once(), **parts.connection)

    return f"{host}:{port}", connect


def _sentinel(parts: _Parts) -> tuple[str, Callable[[], Client]]:
    if not 1 <= len(parts.path) <= 2:
        raise ValueError(
            "A redis+sentinel:// URL names the service after the hosts: redis+sentinel://host:port/service."
        )
    service, database = parts.path[0], _database(parts.path[1:])
    sentinels = [(host, port or 26379) for host, port in parts.hosts]
    connection = parts.connection
    # The Sentinels are reached as the servers are, but with credentials of their own.
    theirs = {name: value for name, value in connection.items() if name not in ("username", "password")}
    theirs.pop("max_connections", None)
    theirs |= {name.removeprefix("sentinel_"): value for name, value in parts.sentinel.items()}

    def connect() -> Client:
        watched = redis.Sentinel(sentinels, sentinel_kwargs={**theirs, "retry": _once()}, **connection)
        master: redis.Redis = watched.master_for(service, db=database, retry=_once())
        return master

    return f"the service {service!r} of Sentinel", connect


def _cluster(parts: _Parts) -> tuple[str, Callable[[], Client]]:
    if _database(parts.path) or len(parts.path) > 1:
        raise ValueError("A cluster has one database, 0; nothing else may follow the hosts of a redis+cluster:// URL.")
    hosts = [(host, port or 6379) for host, port in parts.hosts]

    def connect() -> Client:
        nodes = [ClusterNode(host, port) for host, port in hosts]
        return redis.RedisCluster(startup_nodes=nodes, retry=_once(), **parts.connection)

    return "the cluster of " + ", ".join(f"{host}:{port}" for host, port in hosts), connect


def _once() -> Retry:
    # The store tries again itself: it knows which repeat is its own.
    return Retry(NoBackoff(), 0)


def _read_host(text: str) -> tuple[str, int | None]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise ValueError("The host of a Redis URL is host:port, or [address]:port for IPv6.")
    return found["v6"] or unquote(found["name"]) or "localhost", int(found["port"]) if found["port"] else None


def _database(path: list[str]) -> int:
    if not path:
        return 0
    if not path[0].isdecimal():
        raise ValueError(f"The database of a Redis URL is a number, not {path[0]!r}.")
    return int(path[0])


def _read_options(query: str, known: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    options = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise ValueError(f"A Redis URL has no option {name!r}; those that it has are {', '.join(sorted(known))}.")
        try:
            options[name] = known[name](text)
        except (ValueError, KeyError):
            # Not `from` it: what was written may be a secret in the wrong place.
            raise ValueError(f"The option {name!r} of the Redis URL has a value that it cannot have.") from None
    return options

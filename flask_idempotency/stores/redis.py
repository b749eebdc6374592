"""Records on a Redis or Valkey server: every process of many machines."""

import math
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Self

from ..engine import clock
from ..engine.records import Claim, Claimed, Completed, InProgress, RecordKey, StoredResponse
from ..engine.store import StoreUnavailable, kept_response

try:
    import redis
except ImportError as error:
    raise ImportError("RedisStore needs redis-py: pip install 'flask-idempotency[redis]'") from error

from .redis_scripts import CLAIM, COMPLETE, RELEASE, RENEW
from .redis_server import Call, RedisServer, Reply
from .redis_url import Client, read_url
from .unheard import UnheardClaims


class RedisStore:
    """Records on the server that `client` talks to: a `redis.Redis` or a `redis.RedisCluster`.

    Each decision is one Lua script, one round trip and one key, so that a cluster needs nothing more. The server's
    clock decides about leases and retention, and the server itself expires what is over. Needs Redis 5 or Valkey,
    and the `maxmemory-policy` `noeviction`: the first use warns of any other.

    `prefix`: what the keys of the records begin with.

    `min_replicas`: a completion is only done once so many replicas have it (`WAIT`), and so is a claim that may not
    be taken over. Where they do not have it within `replica_timeout` seconds, the completion stands, but it is not
    safe: it raises `StoreUnavailable`, upon which the engine sends the answer and completes again in the background
    until they do. `replica_timeout` must be shorter than the client's `socket_timeout`.

    What a failover can lose: replication is asynchronous, so a master that dies takes the newest writes with it. A
    claim that is lost lets a retry run while, or after, the first still runs; that first is then fenced, its client
    hears 409, and the work was done twice. A completion that is lost lets a retry run again: as a lapsed attempt,
    where its claim survived, else as a first one. `min_replicas` closes the second gap as long as the replica that
    takes over is one of those that had it; it narrows the first to claims made within the replication lag. Redis
    itself promises no more with `WAIT`. The server's own `min-replicas-to-write` keeps a master that was cut off
    from its replicas from taking claims; and a server without `appendfsync always` loses up to a second of writes
    when its machine loses power. Where that is too much, records belong into the application's database.

    A client that is handed in keeps its own time-outs and retries; `from_url` makes one that never lets a request
    hang.
    """

    def __init__(
        self, client: Client, *, prefix: str = "idempotency:", min_replicas: int = 0, replica_timeout: float = 1.0
    ) -> None:
        if not isinstance(client, redis.Redis | redis.RedisCluster):
            raise TypeError(f"RedisStore needs a redis.Redis or a redis.RedisCluster, not {type(client).__qualname__}.")
        if isinstance(client, redis.client.Pipeline | redis.cluster.ClusterPipeline):
            raise TypeError("RedisStore needs a client, not a pipeline: each of its calls is a decision of its own.")
        server = RedisServer(lambda: client, where=_where(client), owned=False)
        self._settle(server, prefix, min_replicas, replica_timeout, client.get_connection_kwargs())

    @classmethod
    def from_url(
        cls, url: str, *, prefix: str = "idempotency:", min_replicas: int = 0, replica_timeout: float = 1.0
    ) -> Self:
        """The store behind `url`; nothing is connected to before its first use.

        `redis://user:password@host:port/db`, `rediss://` with TLS, `valkey://` and `valkeys://` alike;
        `redis+sentinel://host:port,host:port/service/db`; `redis+cluster://host:port,host:port`. What follows the
        question mark comes before the arguments: `prefix`, `min_replicas`, `replica_timeout`, `sentinel_username`,
        `sentinel_password`, and options of redis-py such as `socket_timeout`, `socket_connect_timeout` (2 s each),
        `max_connections` or `ssl_ca_certs`. Raises `ValueError` for anything else.
        """
        found = read_url(url)
        options: dict[str, Any] = {"prefix": prefix, "min_replicas": min_replicas, "replica_timeout": replica_timeout}
        options |= found.options
        store = cls.__new__(cls)
        server = RedisServer(found.connect, where=found.where, owned=True)
        store._settle(server, **options, connection=found.connection)
        return store

    def _settle(
        self,
        server: RedisServer,
        prefix: str,
        min_replicas: int,
        replica_timeout: float,
        connection: Mapping[str, Any],
    ) -> None:
        if min_replicas < 0 or replica_timeout <= 0:
            raise ValueError("min_replicas must be 0 or more, and replica_timeout more than 0 seconds.")
        patience = connection.get("socket_timeout")
        if min_replicas and patience is not None and replica_timeout >= patience:
            raise ValueError(f"replica_timeout must be shorter than socket_timeout, which is {patience:g} s.")
        self._server = server
        self._prefix = prefix.encode()
        self._min_replicas = min_replicas
        self._replica_timeout = replica_timeout
        self._unheard = UnheardClaims()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._server.where}>"

    def claim(
        self, record: RecordKey, fingerprint: bytes, *, lease: float, retention: float, take_over: bool = True
    ) -> Claimed | InProgress | Completed:
        """See `Store.claim`."""
        # The claim of an earlier try, whose reply never came, recognises itself like that of this one.
        claim = self._unheard.take(record.id) or Claim(record.id, secrets.token_bytes(16))
        arguments = (fingerprint, claim.token, _milliseconds(lease), _milliseconds(retention), int(take_over))
        # Where it may not be taken over, the claim alone tells later that the outcome is unknown: it must survive.
        replicas = 0 if take_over else self._min_replicas
        try:
            reply = self._run(Call(CLAIM, self._key(claim), arguments), replicas=replicas)
            outcome, *told = reply.value
            if outcome == b"claimed":
                self._see_it_safe(reply, replicas)
        except StoreUnavailable:
            self._unheard.remember(claim)
            raise
        match outcome, told:
            case b"claimed", [number]:
                return Claimed(claim, lapsed=number > 1, number=number)
            case b"in progress", [found, left]:
                return InProgress(found, clock.now() + left / 1000, lapsed=left <= 0)
            case b"completed", [found, response]:
                return Completed(found, kept_response(response))
        raise StoreUnavailable(f"Redis at {self._server.where} gave a reply that no claim has")

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """See `Store.complete`."""
        packed = b"" if response is None else response.pack()
        call = Call(COMPLETE, self._key(claim), (claim.token, _milliseconds(retention), packed))
        reply = self._run(call, replicas=self._min_replicas)
        if reply.value == 1:
            self._see_it_safe(reply, self._min_replicas)
        return bool(reply.value == 1)

    def release(self, claim: Claim) -> bool:
        """See `Store.release`."""
        reply = self._server.run(self._release(claim))
        # No record, but an earlier try of this very call: that one gave it back, and its reply was lost. Should the
        # record have gone otherwise, the key is as free. Where somebody else claimed it in between, nothing can
        # tell whether the claim was taken over or given back first: fenced is the careful answer.
        return bool(reply.value == 1 or (reply.value == -1 and reply.repeated))

    def renew(self, claims: Iterable[Claim], *, lease: float) -> None:
        """See `Store.renew`."""
        duration = _milliseconds(lease)
        calls = [Call(RENEW, self._key(claim), (claim.token, duration)) for claim in claims]
        # Nobody runs under these: given back, they do not keep their keys until their lease ends.
        unheard = list(iter(self._unheard.take_any, None))
        calls += [self._release(claim) for claim in unheard]
        try:
            if calls:
                self._server.run_all(calls)
        except StoreUnavailable:
            for claim in unheard:
                self._unheard.remember(claim)
            raise

    def purge(self, *, limit: int) -> int:
        """See `Store.purge`: the server expires records itself."""
        return 0

    def close(self) -> None:
        """See `Store.close`. A client that was handed in stays open: it is its owner's."""
        self._server.close()

    def _see_it_safe(self, reply: Reply, replicas: int) -> None:
        if reply.reached < replicas:
            raise StoreUnavailable(
                f"Redis at {self._server.where}: of the {replicas} replicas that min_replicas asks for, "
                f"{reply.reached} had the record within {self._replica_timeout:g} s"
            )

    def _release(self, claim: Claim) -> Call:
        return Call(RELEASE, self._key(claim), (claim.token,))

    def _run(self, call: Call, *, replicas: int) -> Reply:
        return self._server.run(call, replicas=replicas, replica_timeout=self._replica_timeout)

    def _key(self, claim: Claim) -> bytes:
        return self._prefix + claim.record_id.hex().encode()


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))


def _where(client: Client) -> str:
    """What to call the server of a client that was handed in; no credentials."""
    if isinstance(client, redis.RedisCluster):
        return "the cluster"
    options = client.get_connection_kwargs()
    if "path" in options:
        return str(options["path"])
    if isinstance(client.connection_pool, redis.SentinelConnectionPool):
        return f"the service {client.connection_pool.service_name!r} of Sentinel"
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"

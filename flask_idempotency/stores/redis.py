"""Records on a Redis or Valkey server: every process of many machines."""

import math
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any, Self

from ..engine import clock
from ..engine.records import Claim, Claimed, Completed, InProgress, Lapsed, RecordKey, Standing, StoredResponse
from ..engine.store import StoreUnavailable, kept_response

try:
    import redis
except ImportError as error:
    raise ImportError("RedisStore needs redis-py: pip install 'flask-idempotency[redis]'") from error

from .redis_scripts import (
    ABANDON,
    ANSWERING,
    BEGIN_STEP,
    CLAIM,
    COMPLETE,
    DROP_STEP,
    GIVE_BACK,
    KEEP_STEP,
    LOAD_STEPS,
    RELEASE,
    RENEW,
    RESOLVE,
    Call,
    Script,
)
from .redis_server import RedisServer
from .redis_url import Client, read_url
from .tokens import new_token
from .unheard import UnheardClaims


class RedisStore:
    """Records on the server that `client` talks to: a `redis.Redis` or a `redis.RedisCluster`.

    Each decision is one Lua script, one round trip and one key, so that a cluster needs nothing more. The server's
    clock decides about leases and retention, and the server itself expires what is over. Needs Redis 5 or Valkey,
    and the `maxmemory-policy` `noeviction`: the first use warns of any other.

    `prefix`: what the keys of the records begin with.

    `min_replicas`: a completion is only done once so many replicas have it (`WAIT`), and so is a claim that must be
    durable or may not be taken over, a step, and whatever else no retry may find undone. Where they do not have it
    within `replica_timeout` seconds, the write stands, but it is not safe: it raises `StoreUnavailable`, upon which
    the engine sends the answer and completes again in the background until they do. `replica_timeout` must be shorter
    than the client's `socket_timeout`.

    What a failover can lose: replication is asynchronous, so a master that dies takes the newest writes with it. A
    claim that is lost lets a retry run while the first still runs; the first is then fenced, its client hears 409, and
    the work was done twice. A completion that is lost lets a retry run again: as a lapsed attempt, where its claim
    survived, else as a first one. `min_replicas` closes the second gap as long as the replica that takes over is one
    of those that had it, and with `durable_claims` the first. Redis itself promises no more with `WAIT`. The server's
    own `min-replicas-to-write` keeps a master that was cut off from its replicas from taking claims; and a server
    without `appendfsync always` loses up to a second of writes when its machine loses power. Where that is too much,
    records belong into the application's database.

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
        self,
        record: RecordKey,
        fingerprint: bytes,
        *,
        lease: float,
        retention: float,
        take_over: bool,
        durable: bool,
    ) -> Standing:
        """See `Store.claim`."""
        token = self._token(record, fingerprint, retention)
        about = _about(record, fingerprint, token)
        lifetime = _milliseconds(max(lease, retention)) if take_over else b""
        call = Call(CLAIM, self._key(record.id), (*about, _milliseconds(lease), _milliseconds(retention), lifetime))
        # Where it may not be taken over, the claim alone tells later that the outcome is unknown: it must survive.
        must_survive = durable or not take_over
        try:
            reply = self._write(call, written=_is_claimed) if must_survive else self._server.run(call)
        except BaseException:  # gevent's time-outs and signals interrupt it, too
            self._unheard.remember(Claim(record, fingerprint, token), retention)
            raise
        match reply:
            case 1:
                return Claimed(Claim(record, fingerprint, token), 1, False)
            case [b"claimed", int(number), lapsed]:
                return Claimed(Claim(record, fingerprint, token), number, lapsed == 1)
            case [b"completed", found, response]:
                return Completed(found, kept_response(response))
            case [b"in progress", found, since, left]:
                now = clock.now()
                return InProgress(found, now - since / 1000, now + left / 1000)
            case [b"lapsed", found]:
                return Lapsed(found)
        raise StoreUnavailable(f"Redis at {self._server.where} gave a reply that no claim has")

    def answering(self, claim: Claim, *, lease: float) -> bool:
        """See `Store.answering`."""
        call = Call(ANSWERING, self._key(claim.record.id), (*_about_claim(claim), _milliseconds(lease)))
        return bool(self._write(call) == 1)

    def complete(self, claim: Claim, response: StoredResponse | None, *, retention: float) -> bool:
        """See `Store.complete`."""
        packed = b"" if response is None else response.pack()
        call = Call(COMPLETE, self._key(claim.record.id), (*_about_claim(claim), _milliseconds(retention), packed))
        return bool(self._write(call) == 1)

    def release(self, claim: Claim, *, retention: float) -> bool:
        """See `Store.release`."""
        call = Call(RELEASE, self._key(claim.record.id), (claim.token, _milliseconds(retention)))
        return bool(self._server.run(call) == 1)

    def abandon(self, claim: Claim) -> bool:
        """See `Store.abandon`."""
        return bool(self._write(Call(ABANDON, self._key(claim.record.id), _about_claim(claim))) == 1)

    def resolve(self, record_id: bytes, *, done: bool, retention: float) -> bool:
        """See `Store.resolve`."""
        becomes = b"completed" if done else b"released"
        call = Call(RESOLVE, self._key(record_id), (new_token(), becomes, _milliseconds(retention)))
        return bool(self._write(call) == 1)

    def renew(self, claims: Collection[Claim], *, lease: float) -> set[Claim]:
        """See `Store.renew`."""
        duration = _milliseconds(lease)
        calls = [Call(RENEW, self._key(claim.record.id), (claim.token, duration)) for claim in claims]
        # Nobody runs under these: given back, they do not keep their keys until their lease ends.
        unheard = list(iter(self._unheard.take_any, None))
        calls += [self._give_back(claim, retention) for claim, retention in unheard]
        if not calls:
            return set()
        try:
            replies = self._server.run_all(calls)
        except StoreUnavailable:
            for claim, retention in unheard:
                self._unheard.remember(claim, retention)
            raise
        return {claim for claim, reply in zip(claims, replies, strict=False) if reply == 0}

    def load_steps(self, claim: Claim) -> Mapping[str, bytes | None]:
        """See `Store.load_steps`."""
        fields = self._server.run(Call(LOAD_STEPS, self._key(claim.record.id), ()))
        steps: dict[str, bytes | None] = {}
        for field, value in zip(fields[::2], fields[1::2], strict=True):
            kind, _, name = _text(field).partition(":")
            if kind == "step":
                steps[name] = value
            else:
                steps.setdefault(name, None)
        return steps

    def keep_step(self, claim: Claim, name: str, result: bytes | None, *, retention: float) -> bool:
        """See `Store.keep_step`."""
        duration = _milliseconds(retention)
        if result is None:
            return self._decide(BEGIN_STEP, claim, _bytes(name), duration)
        return self._decide(KEEP_STEP, claim, _bytes(name), result, duration)

    def drop_step(self, claim: Claim, name: str) -> bool:
        """See `Store.drop_step`."""
        # Should it be lost, the mark calls for a person: that is the safe side.
        call = Call(DROP_STEP, self._key(claim.record.id), (claim.token, _bytes(name)))
        return bool(self._server.run(call) == 1)

    def purge(self, *, limit: int) -> int:
        """See `Store.purge`: the server expires records itself."""
        return 0

    def close(self) -> None:
        """See `Store.close`. A client that was handed in stays open: it is its owner's."""
        self._server.close()

    def _token(self, record: RecordKey, fingerprint: bytes, retention: float) -> bytes:
        """A new one, or that of an earlier try of the same request whose reply never came: it recognises itself."""
        unheard = self._unheard.take(record.id) if self._unheard else None
        if unheard is None:
            return new_token()
        if unheard.fingerprint == fingerprint:
            return unheard.token
        try:
            self._server.run(self._give_back(unheard, retention))
        except StoreUnavailable:
            self._unheard.remember(unheard, retention)
            raise
        return new_token()

    def _give_back(self, claim: Claim, retention: float) -> Call:
        return Call(GIVE_BACK, self._key(claim.record.id), (claim.token, _milliseconds(retention)))

    def _decide(self, script: Script, claim: Claim, *arguments: bytes) -> bool:
        """Write under a claim, so that it survives; False where it was fenced."""
        return bool(self._write(Call(script, self._key(claim.record.id), (claim.token, *arguments))) == 1)

    def _write(self, call: Call, *, written: Callable[[Any], bool] = bool) -> Any:
        """Run a script whose write must survive: once it is `written`, as many replicas as were asked for have it."""
        replicas = self._min_replicas
        if not replicas:
            return self._server.run(call)
        reply, reached = self._server.run_and_wait(call, replicas=replicas, timeout=self._replica_timeout)
        if reached < replicas and written(reply):
            raise StoreUnavailable(
                f"Redis at {self._server.where}: of the {replicas} replicas that min_replicas asks for, "
                f"{reached} had the record within {self._replica_timeout:g} s"
            )
        return reply

    def _key(self, record_id: bytes) -> bytes:
        return self._prefix + record_id.hex().encode()


def _about(record: RecordKey, fingerprint: bytes, token: bytes) -> tuple[bytes, ...]:
    """What every record says of the claim that it was made for."""
    return token, fingerprint, _bytes(record.key), _bytes(record.method), _bytes(record.path)


def _about_claim(claim: Claim) -> tuple[bytes, ...]:
    return _about(claim.record, claim.fingerprint, claim.token)


def _is_claimed(reply: Any) -> bool:
    return reply == 1 or bool(reply[0] == b"claimed")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(kept: bytes) -> str:
    return kept.decode("utf-8", "surrogatepass")


@lru_cache
def _milliseconds(seconds: float) -> bytes:
    return b"%d" % max(1, math.ceil(seconds * 1000))


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

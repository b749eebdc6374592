"""One Redis server, service or cluster: runs scripts there, again where that is safe, and says what went wrong."""

# mypy: allow-untyped-calls
# redis-py declares some of its methods without types.

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import redis
from redis.client import NEVER_DECODE
from redis.exceptions import (
    AskError,
    AuthorizationError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    RedisClusterException,
)

from ..engine.process_lock import ProcessLock
from ..engine.store import StoreUnavailable
from .redis_eviction import warn_of_eviction
from .redis_scripts import Script
from .redis_url import Client

T = TypeVar("T")

logger = logging.getLogger("flask_idempotency")

#: Seconds before the second and the third try of a call that the network failed.
_PAUSES = (0.05, 0.2)

#: Seconds after which no further try begins: whoever waits for a request has waited long enough.
_PATIENCE = 3.0


@dataclass(frozen=True, slots=True)
class Call:
    """A script, the one record it decides on, and its arguments."""

    script: Script
    key: bytes
    arguments: tuple[bytes | str | int, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a script returned.

    `repeated`: an earlier try may have been run already, its reply lost. `reached`: how many replicas have what was
    written, where that was asked for.
    """

    value: Any
    repeated: bool
    reached: int


class RedisServer:
    """Connects on first use, and again after `close`. A call that is tried again is sent as it was, token and all."""

    def __init__(self, connect: Callable[[], Client], *, where: str, owned: bool) -> None:
        self.where = where
        self._connect = connect
        self._owned = owned
        self._client: Client | None = None
        self._looked_at_policy = False
        self._opening = ProcessLock()  # the pools of redis-py notice a fork themselves

    def run(self, call: Call, *, replicas: int = 0, replica_timeout: float = 0.0) -> Reply:
        """Run a script: one round trip. With `replicas`, wait up to `replica_timeout` seconds until so many have it."""

        def once(client: Client, repeated: bool) -> Reply:
            if replicas:
                value, reached = _run_and_wait(client, call, replicas, replica_timeout)
                return Reply(value, repeated, reached)
            if self._owned and isinstance(client, redis.Redis):
                return Reply(_evaluate_directly(client, call), repeated, 0)
            return Reply(_evaluate(client, call), repeated, 0)

        return self._persist(once)

    def run_all(self, calls: Sequence[Call]) -> None:
        """Run scripts that decide on a record each, in one round trip per server.

        Raises `StoreUnavailable` where some could not be run; those of servers that answer were.
        """

        def once(client: Client, repeated: bool) -> None:
            trouble: Exception | None = None
            for server, group in _by_server(client, calls):
                try:
                    _run_group(client, server, group)
                except _ERRORS as error:
                    trouble = error
                    _learn_the_way(client, group[0])
            if trouble is not None:
                raise trouble

        self._persist(once)

    def close(self) -> None:
        """Close the connections. A client that was handed in stays open: it is its owner's."""
        with self._opening:
            client, self._client = self._client, None
        if client is not None and self._owned:
            client.close()

    def _persist(self, once: Callable[[Client, bool], T]) -> T:
        """Try, and try again where the trouble may have passed; `once` hears whether it may have been run before."""
        began = time.monotonic()
        repeated = False
        for pause in (*_PAUSES, None):
            try:
                client = self._open()
                done = once(client, repeated or _hides_retries(client))
            except _ERRORS as error:
                if pause is None or not _may_pass(error) or time.monotonic() - began > _PATIENCE:
                    raise StoreUnavailable(f"Redis at {self.where}: {_describe(error)}") from error
                if isinstance(error, redis.ReadOnlyError):
                    self._leave_demoted_server()
                repeated = True
                time.sleep(pause)
            else:
                self._look_at_policy(client)
                return done
        raise AssertionError("the last try returns or raises")

    def _open(self) -> Client:
        client = self._client
        if client is None:
            with self._opening:
                client = self._client = self._client or self._connect()
        return client

    def _leave_demoted_server(self) -> None:
        """Close idle connections: the name may point to the new master by now, and they would never notice."""
        if isinstance(self._client, redis.Redis):
            self._client.connection_pool.disconnect(inuse_connections=False)

    def _look_at_policy(self, client: Client) -> None:
        if self._looked_at_policy:
            return
        self._looked_at_policy = True
        try:
            warn_of_eviction(client, self.where)
        except _ERRORS:
            self._looked_at_policy = False  # after the next call


#: Whatever redis-py raises. The second of them is no RedisError.
_ERRORS = (redis.RedisError, RedisClusterException)

#: Lets a client that decodes replies leave ours alone: responses are no text.
_AS_BYTES = {NEVER_DECODE: True}


def _evalsha(call: Call) -> tuple[bytes | str | int, ...]:
    return ("EVALSHA", call.script.digest, 1, call.key, *call.arguments)


def _evaluate(client: Client, call: Call) -> Any:
    try:
        return client.execute_command(*_evalsha(call), **_AS_BYTES)
    except NoScriptError:
        return _bring_script(client, call)


def _evaluate_directly(client: redis.Redis, call: Call) -> Any:
    """What `_evaluate` does, without redis-py's retries and metrics, which none of our own clients has turned on.

    They are a seventh of what a call costs.
    """
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        connection.send_command(*_evalsha(call))
        return connection.read_response(disable_decoding=True)
    except NoScriptError:
        pass
    except redis.ResponseError:
        raise
    except BaseException:
        connection.disconnect()  # else the reply that is still to come would be taken for that of the next call
        raise
    finally:
        pool.release(connection)
    return _bring_script(client, call)


def _bring_script(client: Client, call: Call) -> Any:
    # A new server, or one that was restarted. EVAL brings the script and runs it, on the one server it is for;
    # SCRIPT LOAD would load it on every server of a cluster, and cost a round trip more.
    return client.execute_command("EVAL", call.script.text, 1, call.key, *call.arguments, **_AS_BYTES)


def _run_and_wait(client: Client, call: Call, replicas: int, timeout: float) -> tuple[Any, int]:
    # In one pipeline, since WAIT counts the replicas that have what its own connection wrote.
    ((server, _),) = _by_server(client, [call])
    wait = ("WAIT", replicas, max(1, round(timeout * 1000)))
    try:
        value, reached = _pipelined(server, [_evalsha(call), wait])
        if isinstance(value, NoScriptError | MovedError | AskError):
            _evaluate(client, call)
            # Once more, on a connection that is waited with: the call recognises what it wrote.
            ((server, _),) = _by_server(client, [call])
            value, reached = _pipelined(server, [_evalsha(call), wait])
    except _ERRORS:
        _learn_the_way(client, call)
        raise
    for outcome in (value, reached):
        if isinstance(outcome, Exception):
            raise outcome
    return value, int(reached)


def _run_group(client: Client, server: redis.Redis, group: Sequence[Call]) -> None:
    values = _pipelined(server, [_evalsha(call) for call in group])
    for call, value in zip(group, values, strict=True):
        if isinstance(value, Exception):
            # Alone, a call finds its way to where its record has moved, and brings its script along.
            _evaluate(client, call)


def _pipelined(server: redis.Redis, commands: Iterable[tuple[bytes | str | int, ...]]) -> list[Any]:
    pipeline = server.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command, **_AS_BYTES)
    return pipeline.execute(raise_on_error=False)


def _by_server(client: Client, calls: Iterable[Call]) -> list[tuple[redis.Redis, list[Call]]]:
    """The calls, grouped by the server that each is for."""
    if isinstance(client, redis.Redis):
        return [(client, list(calls))]
    groups: dict[str, tuple[redis.Redis, list[Call]]] = {}
    for call in calls:
        node = client.get_node_from_key(call.key)
        groups.setdefault(node.name, (client.get_redis_connection(node), []))[1].append(call)
    return list(groups.values())


def _learn_the_way(client: Client, call: Call) -> None:
    """Let a cluster's client notice that a master was replaced, which it does in its own commands only."""
    if isinstance(client, redis.RedisCluster):
        with suppress(*_ERRORS):
            _evaluate(client, call)


def _hides_retries(client: Client) -> bool:
    """Whether the client itself sends again what got no reply, without telling."""
    retry = client.retry if isinstance(client, redis.RedisCluster) else client.get_retry()
    return retry is not None and retry.get_retries() != 0


def _may_pass(error: Exception) -> bool:
    """Whether another try, a moment later, may meet a server that can."""
    if isinstance(error, redis.AuthenticationError | AuthorizationError):
        return False
    return isinstance(
        error,
        redis.ConnectionError | redis.TimeoutError | redis.ReadOnlyError | ClusterDownError | RedisClusterException,
    )


def _describe(error: Exception) -> str:
    """What went wrong, without what was sent: some errors quote their arguments, and these hold kept responses."""
    name = type(error).__name__
    if isinstance(error, MovedError):
        return f"{name}: the server is part of a cluster; its URL starts with redis+cluster://"
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | redis.ResponseError):
        return f"{name}: {_before_quote(str(error))}"
    return name


def _before_quote(text: str) -> str:
    return text.partition("'")[0].strip()

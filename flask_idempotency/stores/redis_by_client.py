"""Runs scripts by a client's own commands: a cluster's, which knows the way, or one that was handed in."""

# mypy: allow-untyped-calls
# redis-py declares some of its methods without types.

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import redis
from redis.client import NEVER_DECODE
from redis.exceptions import AskError, MovedError, NoScriptError, RedisClusterException

from .redis_scripts import Call
from .redis_url import Client

#: Whatever redis-py raises. The second of them is no RedisError.
ERRORS = (redis.RedisError, RedisClusterException)

#: Lets a client that decodes replies leave ours alone: responses are no text.
_AS_BYTES = {NEVER_DECODE: True}


class ClientRoute:
    """To wherever the client leads, with its own retries and time-outs."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def run(self, call: Call) -> Any:
        """What the script returns: one round trip."""
        try:
            return self.client.execute_command(*_evalsha(call), **_AS_BYTES)
        except NoScriptError:
            # A new server, or one that was restarted.
            return self.client.execute_command("EVAL", *call.by_text(), **_AS_BYTES)

    def run_and_wait(self, call: Call, *, replicas: int, timeout: int) -> tuple[Any, int]:
        """What the script returns, and how many replicas have what it wrote after `timeout` milliseconds at most."""
        # In one pipeline, since WAIT counts the replicas that have what its own connection wrote.
        ((server, _),) = self._by_server([call])
        wait = ("WAIT", replicas, timeout)
        try:
            value, reached = _pipelined(server, [_evalsha(call), wait])
            if isinstance(value, NoScriptError | MovedError | AskError):
                self.run(call)
                # Once more, on a connection that is waited with: the call recognises what it wrote.
                ((server, _),) = self._by_server([call])
                value, reached = _pipelined(server, [_evalsha(call), wait])
        except ERRORS:
            self._learn_the_way(call)
            raise
        for outcome in (value, reached):
            if isinstance(outcome, Exception):
                raise outcome
        return value, reached

    def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """What each script returns, in one round trip per server.

        Raises where some could not be run; those of servers that answer were.
        """
        trouble: Exception | None = None
        replies: dict[int, Any] = {}
        for server, places in self._by_server(calls):
            try:
                values = _pipelined(server, [_evalsha(calls[place]) for place in places])
                for place, value in zip(places, values, strict=True):
                    # Alone, a call finds its way to where its record has moved, and brings its script along.
                    replies[place] = self.run(calls[place]) if isinstance(value, Exception) else value
            except ERRORS as error:
                trouble = error
                self._learn_the_way(calls[places[0]])
        if trouble is not None:
            raise trouble
        return [replies[place] for place in range(len(calls))]

    def leave_server(self) -> None:
        """Close idle connections: the name may point to another server by now, and they would never notice."""
        if isinstance(self.client, redis.Redis):
            self.client.connection_pool.disconnect(inuse_connections=False)

    def _by_server(self, calls: Sequence[Call]) -> list[tuple[redis.Redis, list[int]]]:
        """The places of the calls, grouped by the server that each is for."""
        if isinstance(self.client, redis.Redis):
            return [(self.client, list(range(len(calls))))]
        groups: dict[str, tuple[redis.Redis, list[int]]] = {}
        for place, call in enumerate(calls):
            node = self.client.get_node_from_key(call.key)
            groups.setdefault(node.name, (self.client.get_redis_connection(node), []))[1].append(place)
        return list(groups.values())

    def _learn_the_way(self, call: Call) -> None:
        """Let a cluster's client notice that a master was replaced, which it does in its own commands only."""
        if isinstance(self.client, redis.RedisCluster):
            with suppress(*ERRORS):
                self.run(call)


def _evalsha(call: Call) -> tuple[bytes | str | int, ...]:
    return ("EVALSHA", *call.by_digest())


def _pipelined(server: redis.Redis, commands: Iterable[tuple[bytes | str | int, ...]]) -> list[Any]:
    pipeline = server.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command, **_AS_BYTES)
    return pipeline.execute(raise_on_error=False)

"""Runs scripts on connections of our own clients: little more than what the socket costs."""

# mypy: allow-untyped-calls
# redis-py declares some of its methods without types.

from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

import redis
from redis.exceptions import NoScriptError

from ..engine.forks import call_in_child
from .redis_scripts import Call
from .redis_wire import pack

#: Seconds that a connection may have been idle and is used without a look at it.
_STANDS = 1.0


class DirectRoute:
    """To one server, or to the master that Sentinels name, by a client that nobody else has.

    Connections come from the client's pool and are not given back but kept at hand. To take one out of the pool and
    put it back, and to let the client pack, try again and measure, costs more than the rest of a call.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._pool = client.connection_pool
        self._forget_connections()
        call_in_child(self._forget_connections)  # its parent's; the pool notices a fork itself

    def run(self, call: Call) -> Any:
        """What the script returns: one round trip."""
        (reply,) = self._exchange(call.by_digest_packed(), 1)
        if isinstance(reply, NoScriptError):
            # A new server, or one that was restarted.
            (reply,) = self._exchange(pack((b"EVAL", *call.by_text())), 1)
        if isinstance(reply, redis.ResponseError):
            raise reply
        return reply

    def run_and_wait(self, call: Call, *, replicas: int, timeout: int) -> tuple[Any, int]:
        """What the script returns, and how many replicas have what it wrote after `timeout` milliseconds at most."""
        # WAIT counts the replicas that have what its own connection wrote: together, then.
        wait = pack((b"WAIT", b"%d" % replicas, b"%d" % timeout))
        reply, reached = self._exchange(call.by_digest_packed() + wait, 2)
        if isinstance(reply, NoScriptError):
            reply, reached = self._exchange(pack((b"EVAL", *call.by_text())) + wait, 2)
        for answer in (reply, reached):
            if isinstance(answer, redis.ResponseError):
                raise answer
        return reply, reached

    def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """What each script returns, in one round trip."""
        replies = self._exchange(b"".join([call.by_digest_packed() for call in calls]), len(calls))
        for place, reply in enumerate(replies):
            if isinstance(reply, redis.ResponseError):
                replies[place] = self.run(calls[place])  # alone, it brings its script along, or raises
        return replies

    def leave_server(self) -> None:
        """Close the connections at hand: the name may point to another server by now, and they would never notice."""
        with suppress(IndexError):
            while True:
                self._give_up(self._at_hand.pop()[0])

    def _exchange(self, packed: bytes, count: int) -> list[Any]:
        """Send commands and read their replies, errors among them. A connection is reopened after any error."""
        connection = self._take()
        replies: list[Any] = []
        failed = False
        try:
            connection.send_packed_command([packed])
            for _ in range(count):
                try:
                    replies.append(connection.read_response(disable_decoding=True))
                except redis.ResponseError as error:
                    replies.append(error)
                    failed = failed or not isinstance(error, NoScriptError)
        except BaseException as error:
            # Else the reply that is still to come would be taken for that of the next call.
            self._give_up(connection)
            if isinstance(error, redis.ConnectionError):
                self.leave_server()  # what ended this one has probably ended them all
            raise
        # The pool disowns the connections to a server that Sentinel has replaced.
        if failed or not self._pool.owns_connection(connection):
            self._give_up(connection)
        else:
            self._at_hand.append((connection, monotonic()))
        return replies

    def _take(self) -> Any:
        try:
            connection, used_at = self._at_hand.pop()
        except IndexError:
            return self._pool.get_connection()
        if monotonic() - used_at < _STANDS:
            return connection
        # The pool looks whether it was closed meanwhile, and opens it again.
        self._pool.release(connection)
        return self._pool.get_connection()

    def _give_up(self, connection: Any) -> None:
        connection.disconnect()
        self._pool.release(connection)

    def _forget_connections(self) -> None:
        self._at_hand: list[tuple[Any, float]] = []

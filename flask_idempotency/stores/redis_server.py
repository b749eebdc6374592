"""One Redis server, service or cluster: runs scripts there, again where that may help, and says what went wrong."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from redis.exceptions import AuthorizationError, ClusterDownError, MovedError, RedisClusterException

from ..engine.process_lock import ProcessLock
from ..engine.store import StoreUnavailable
from .redis_by_client import ERRORS, ClientRoute
from .redis_direct import DirectRoute
from .redis_eviction import warn_of_eviction
from .redis_scripts import Call
from .redis_url import Client

T = TypeVar("T")

#: How scripts reach the server.
Route = DirectRoute | ClientRoute

#: Seconds to wait after each try of a call that the network failed; after the last, it is not tried again.
_PAUSES = (0.05, 0.2, None)

#: Seconds after which no further try begins: whoever waits for a request has waited long enough.
_PATIENCE = 3.0


class RedisServer:
    """Connects on first use, and again after `close`. A call that is tried again is sent as it was, token and all."""

    def __init__(self, connect: Callable[[], Client], *, where: str, owned: bool) -> None:
        self.where = where
        self._connect = connect
        self._owned = owned
        self._route: Route | None = None
        self._looked_at_policy = False
        self._opening = ProcessLock()  # the pools of redis-py notice a fork themselves

    def run(self, call: Call) -> Any:
        """What the script returns: one round trip."""
        return self._persist(lambda route: route.run(call))

    def run_and_wait(self, call: Call, *, replicas: int, timeout: float) -> tuple[Any, int]:
        """What the script returns, and how many replicas have what it wrote after `timeout` seconds at most."""
        milliseconds = max(1, round(timeout * 1000))
        return self._persist(lambda route: route.run_and_wait(call, replicas=replicas, timeout=milliseconds))

    def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """What each script returns, in one round trip per server.

        Raises `StoreUnavailable` where some could not be run; those of servers that answer were.
        """
        return self._persist(lambda route: route.run_all(calls))

    def close(self) -> None:
        """Close the connections. A client that was handed in stays open: it is its owner's."""
        with self._opening:
            route, self._route = self._route, None
        if route is not None and self._owned:
            route.client.close()

    def _persist(self, once: Callable[[Route], T]) -> T:
        """Try, and try again where the trouble may have passed."""
        began = time.monotonic()
        for pause in _PAUSES:
            try:
                route = self._route or self._open()
                done = once(route)
            except ERRORS as error:
                if pause is None or not _may_pass(error) or time.monotonic() - began > _PATIENCE:
                    raise StoreUnavailable(f"Redis at {self.where}: {_describe(error)}") from error
                if isinstance(error, redis.ReadOnlyError):
                    self._leave_server()
                time.sleep(pause)
            else:
                if not self._looked_at_policy:
                    self._look_at_policy(route)
                return done
        raise AssertionError("the last try returns or raises")

    def _open(self) -> Route:
        with self._opening:
            if self._route is None:
                client = self._connect()
                if self._owned and isinstance(client, redis.Redis):
                    self._route = DirectRoute(client)
                else:
                    self._route = ClientRoute(client)
            return self._route

    def _leave_server(self) -> None:
        if self._route is not None:
            self._route.leave_server()

    def _look_at_policy(self, route: Route) -> None:
        self._looked_at_policy = True
        try:
            warn_of_eviction(route.client, self.where)
        except ERRORS:
            self._looked_at_policy = False  # after the next call


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

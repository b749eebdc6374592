"""A replica that lags behind its master, and takes over from it nevertheless."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from flask_idempotency.stores.redis import RedisStore
from tests.proxies import Proxy

from . import servers


@dataclass(frozen=True, slots=True)
class Lagging:
    """A master, and a replica at the end of a wire that can hang; `name` is what the store knows its server by."""

    master: servers.Server
    replica: servers.Server
    wire: Proxy
    name: Proxy

    def open_store(self, options: str = "") -> RedisStore:
        return RedisStore.from_url(f"redis://127.0.0.1:{self.name.port}{options}")

    def fail_over(self) -> None:
        """The master dies, and whoever watches makes a master of the replica."""
        self.wire.drop()
        self.master.kill()
        with self.replica.client() as client:
            client.replicaof("NO", "ONE")
        self.name.server = self.replica.address


@contextmanager
def running_pair() -> Iterator[Lagging]:
    with ExitStack() as stack:
        master, replica = servers.Server(), servers.Server()
        stack.enter_context(servers.running(master, replica))
        wire, name = (stack.enter_context(Proxy(master.address)) for _ in range(2))
        servers.follow(replica, master, wire.port)
        yield Lagging(master, replica, wire, name)

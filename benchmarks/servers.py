"""The servers that some stores need, started for the run and stopped for sure."""

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.databases import postgresql
from tests.stores.redis.servers import Server, running


class Unavailable(Exception):
    """Why a subject cannot run."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the servers are, and the folder for files."""

    folder: Path
    valkey: str | Exception
    postgresql: str | Exception

    def valkey_url(self) -> str:
        """`redis://…`; raises `Unavailable` where there is none."""
        return _known(self.valkey)

    def postgresql_url(self, scheme: str = "postgresql+psycopg") -> str:
        """The URL of the database; raises `Unavailable` where there is none."""
        return _known(self.postgresql).replace("postgresql+psycopg", scheme, 1)


def _known(url: str | Exception) -> str:
    if isinstance(url, Exception):
        raise Unavailable(f"its server did not start: {type(url).__name__}: {url}") from url
    return url


@contextmanager
def started(folder: Path) -> Iterator[Servers]:
    """Valkey and PostgreSQL, with the settings they come with. A run that is told to end stops them first."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with ExitStack() as stack:
        valkey: str | Exception
        try:
            server = Server()
            stack.enter_context(running(server))
            valkey = server.url
        except Exception as error:  # noqa: BLE001 - told in the table, in the place of the figures
            valkey = error
        database: str | Exception
        try:
            database = stack.enter_context(postgresql())
        except Exception as error:  # noqa: BLE001 - as above
            database = error
        yield Servers(folder, valkey, database)

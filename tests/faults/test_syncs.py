"""Power cannot be cut here, but which writes wait for the disk can be seen; the rest may be lost with the power."""

from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from flask_idempotency.stores import SQLAlchemyStore, SQLiteStore
from tests.guards.sqlite_trace import Trace
from tests.stores.sql.crashes import nothing_synced_by_itself

from .kept import CLAIM, KINDS, keep


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "fast"])
@pytest.mark.parametrize("kind", KINDS)
def test_on_sqlite_all_but_claims_wait_for_the_disk_where_the_store_is_durable(
    kind: str, durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    trace = Trace(monkeypatch)
    with closing(SQLiteStore(tmp_path / "records.db", durable=durable)) as store:
        store.purge(limit=1)  # makes the file
        before = trace.read_commits()
        keep(store, run, kind)
    assert (trace.read_commits() - before)["synced"] == (durable and kind != CLAIM)


@pytest.mark.parametrize("kind", KINDS)
def test_on_postgresql_all_but_claims_wait_for_the_disk(kind: str, postgresql_url: str, run: str) -> None:
    engine = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")

    def synced() -> str:
        """How far the server's log is on the disk."""
        with engine.connect() as connection:
            return str(connection.exec_driver_sql("SELECT pg_current_wal_flush_lsn()").scalar_one())

    with closing(SQLAlchemyStore(postgresql_url)) as store:
        keep(store, f"{run}, before", kind)  # makes the table
        with nothing_synced_by_itself(engine):
            before = synced()
            keep(store, run, kind)
            waited = synced() != before
    engine.dispose()
    assert waited == (kind != CLAIM)

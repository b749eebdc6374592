"""The application's database, for what commits with its rows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import Flask

from ..engine.store import Store

if TYPE_CHECKING:
    from sqlalchemy import Engine, MetaData
    from sqlalchemy.orm import scoped_session

    from ..stores.cipher import Cipher


class NoDatabase(RuntimeError):
    """There is no database whose sessions could be used, or it is not known; says what to do."""


class Database(NamedTuple):
    """Where the application's sessions work, the metadata that its tables are in, and what encrypts ours in there."""

    sessions: scoped_session[Any]
    engine: Engine
    metadata: MetaData
    cipher: Cipher | None


def database_of(app: Flask, sessions: Any) -> Database:
    """The database of these sessions, or of Flask-SQLAlchemy. Raises `NoDatabase` where there is neither."""
    # That of the store: what is kept of one operation is as readable in one place as in the other.
    cipher = getattr(app.extensions["idempotency"].engine.store, "cipher", None)
    if sessions is not None:
        from sqlalchemy import Engine, MetaData
        from sqlalchemy.exc import UnboundExecutionError

        try:
            engine = sessions.get_bind()
        except UnboundExecutionError:
            engine = None
        if not isinstance(engine, Engine):
            raise NoDatabase("Idempotency(session=…) needs sessions that are bound to an Engine.")
        return Database(sessions, engine, MetaData(), cipher)
    db = app.extensions.get("sqlalchemy")
    if db is None:
        raise NoDatabase(
            "The options atomic and keep_request need Flask-SQLAlchemy on the app, or Idempotency(session=…) with a "
            "scoped_session."
        )
    return Database(db.session, db.engine, db.metadata, cipher)


def shares_sqlite_file(store: Store, engine: Engine) -> bool:
    """Whether the records of `store` are in the SQLite file that `engine` works on, which has one writer."""
    path: str | None = getattr(store, "sqlite_path", None)
    if path is None or engine.dialect.name != "sqlite" or not os.path.exists(path):
        return False
    with engine.connect() as connection:
        files = [row[2] for row in connection.exec_driver_sql("PRAGMA database_list")]
    return any(file and os.path.samefile(file, path) for file in files)

"""The application's database, for what commits with its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from flask import Flask

if TYPE_CHECKING:
    from sqlalchemy import Engine, MetaData
    from sqlalchemy.orm import scoped_session


class Database(NamedTuple):
    """Where the application's sessions work, and the metadata that its tables are in."""

    sessions: scoped_session[Any]
    engine: Engine
    metadata: MetaData


def database_of(app: Flask, sessions: Any) -> Database:
    """The database of these sessions, or of Flask-SQLAlchemy. Raises `RuntimeError` where there is neither."""
    from sqlalchemy import Engine, MetaData

    if sessions is not None:
        engine = sessions.get_bind()
        if not isinstance(engine, Engine):
            raise RuntimeError("Idempotency(session=…) needs sessions that are bound to an Engine.")
        return Database(sessions, engine, MetaData())
    db = app.extensions.get("sqlalchemy")
    if db is None:
        raise RuntimeError(
            "The options atomic and keep_request need Flask-SQLAlchemy on the app, or Idempotency(session=…) with a "
            "scoped_session."
        )
    return Database(db.session, db.engine, db.metadata)

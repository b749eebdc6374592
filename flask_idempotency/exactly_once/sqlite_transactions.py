"""Real transactions on SQLite, where Python's driver makes its own."""

from sqlalchemy import Connection


def begin_for_real(connection: Connection) -> None:
    """Begin a transaction, if this is SQLite and none has begun; elsewhere SQLAlchemy has seen to it.

    Python's sqlite3 begins only before the first row is changed. A savepoint taken before that is the outermost
    transaction, and releasing it commits. Immediate, since a transaction that reads first and writes later fails where
    another has written meanwhile.
    """
    if connection.dialect.name != "sqlite":
        return
    driver = connection.connection.dbapi_connection
    assert driver is not None
    if not driver.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

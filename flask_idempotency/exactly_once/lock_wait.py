"""Bounds how long a transaction waits for what another has locked."""

from sqlalchemy import Connection

#: Seconds after which a wait is a conflict, on servers that would wait for ever.
PATIENCE = 10


class LockWait:
    """The waits on one database.

    PostgreSQL waits for ever where nobody has set `lock_timeout`. MariaDB ends a wait after `innodb_lock_wait_timeout`,
    and SQLite after the driver's time-out; those stay as they are.
    """

    def __init__(self) -> None:
        self._unbounded: bool | None = None  # until asked

    def bound(self, connection: Connection) -> None:
        """Bound the waits of the transaction that has begun on `connection`."""
        if connection.dialect.name != "postgresql":
            return
        # Neither of the two takes the snapshot of the transaction, as a SELECT would.
        if self._unbounded is None:
            self._unbounded = connection.exec_driver_sql("SHOW lock_timeout").scalar() == "0"
        if self._unbounded:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE}s'")

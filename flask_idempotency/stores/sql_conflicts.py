"""Tells errors after which nothing was done, since a transaction met another's, from those that say something else."""

from sqlalchemy.exc import DBAPIError

# Serialization failure, deadlock, lock not available (PostgreSQL).
_SQLSTATES = {"40001", "40P01", "55P03"}

# Lock wait time-out, deadlock, record changed (MariaDB, MySQL).
_ERROR_NUMBERS = {1205, 1213, 1020}

# BUSY and LOCKED (SQLite), the primary result codes.
_SQLITE_CODES = {5, 6}


def is_conflict(error: DBAPIError) -> bool:
    """Whether the transaction met another's and was undone, so that the same may be tried again."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return (
        getattr(error.orig, "sqlstate", None) in _SQLSTATES
        or error_number(error) in _ERROR_NUMBERS
        or (code is not None and code & 0xFF in _SQLITE_CODES)
    )


def error_number(error: DBAPIError) -> int | None:
    """The number that MariaDB and MySQL give an error."""
    first = error.orig.args[0] if error.orig is not None and error.orig.args else None
    return first if isinstance(first, int) else None

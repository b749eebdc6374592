"""Column types for what our tables in a SQL database keep."""

from sqlalchemy import LargeBinary
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine


def digest_type(size: int) -> TypeEngine[bytes]:
    """The column type of up to `size` bytes that may be a key; a plain BLOB cannot be one on MariaDB."""
    return LargeBinary(size).with_variant(mysql.VARBINARY(size), "mysql", "mariadb")


def bytes_type() -> TypeEngine[bytes]:
    """The column type of bytes of any number."""
    return LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")

"""Idempotency at the database level: a unique constraint decides, and the row that exists is the answer."""

from collections.abc import Iterable
from typing import Any, TypeVar

try:
    from sqlalchemy import Connection, PrimaryKeyConstraint, Table, UniqueConstraint, inspect, select, text
    from sqlalchemy.exc import IntegrityError
    from sqlalchemy.orm import Mapper, Session, scoped_session
except ImportError as error:
    raise ImportError("create_once needs SQLAlchemy: pip install 'flask-idempotency[sqlalchemy]'") from error

from ..stores.sql_conflicts import error_number
from .sqlite_transactions import begin_for_real

Row = TypeVar("Row")

# How a database says that a row that is there stood in the way: the SQLSTATE (PostgreSQL), the error numbers (MariaDB,
# MySQL), and the extended result codes for UNIQUE, PRIMARY KEY and rowid (SQLite).
_UNIQUE_VIOLATION = "23505"
_DUPLICATE_ENTRY = {1062, 1586}
_SQLITE_UNIQUENESS = {2067, 1555, 2579}

#: By PostgreSQL's catalog: the index of a constraint has its name.
_COLUMNS_OF_INDEX = text(
    "SELECT attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid "
    "JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = :schema AND relname = :name"
)


class WinnerHidden(Exception):
    """Another row was first, and this transaction cannot see it: it began before that one was committed."""


def create_once(
    session: "Session | scoped_session[Any]", row: Row, *, key: str | Iterable[str] = "idempotency_key"
) -> tuple[Row, bool]:
    """Insert `row`, or find the one that was there first: `order, created = create_once(db.session, Order(…))`.

    `key` names the attribute, or the attributes together, on which the table has a unique constraint. The insert runs
    in a savepoint of the session's own transaction, which goes on unharmed where another was first, in this moment or
    long ago. What commits is the caller's to decide.

    Raises `ValueError` where no unique constraint of the model would keep a second row out, and SQLAlchemy's
    `IntegrityError` where another constraint is violated. Raises `WinnerHidden` where the row that was first cannot be
    seen, since it was committed after this transaction began (REPEATABLE READ or SERIALIZABLE on PostgreSQL): an atomic
    view under `on_conflict="rerun"` is run again by itself, elsewhere the transaction is the caller's to run again.

    What the column's collation takes for equal is one key: by MariaDB's default, `a` and `A`. There, keys that clients
    choose need a binary one.
    """
    names = (key,) if isinstance(key, str) else tuple(key)
    model = type(row)
    _require_unique(model, names)
    values = {name: getattr(row, name) for name in names}
    for name, value in values.items():
        if value is None:
            # SQL takes every NULL for another value: the constraint would let any number of them in.
            raise ValueError(f"{model.__name__}.{name} must be set: it is what makes the row the only one.")
    if row in session.new:
        session.expunge(row)  # a relationship brought it in already, and it must be inserted in the savepoint
    connection = session.connection(bind_arguments={"mapper": inspect(model)})  # where the row goes, of several binds
    begin_for_real(connection)
    session.flush()  # what fails in here is not ours to catch
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError as error:
        if row in session:
            session.expunge(row)
        if not _is_of_uniqueness(error):
            raise
        query = select(model).filter_by(**values).execution_options(populate_existing=True)
        if connection.dialect.name in {"mysql", "mariadb"}:
            # Under REPEATABLE READ, only a locking read sees what was committed meanwhile. PostgreSQL sees no more by
            # it, and refuses it where the model joins what it loads eagerly.
            query = query.with_for_update(read=True)
        existing = session.execute(query).unique().scalar_one_or_none()
        if existing is not None:
            return existing, False
        if _is_of_key(error, connection, model, names):
            raise WinnerHidden(f"The {model.__name__} that was there first is not visible yet.") from error
        raise
    return row, True


def _require_unique(model: type, names: tuple[str, ...]) -> None:
    """Refuse a key that nothing in the database keeps unique: each call would insert another row."""
    mapper: Mapper[Any] = inspect(model)
    columns = {mapper.columns[name] for name in names if name in mapper.columns}
    for table in (each for each in mapper.tables if isinstance(each, Table)):
        constraints = [c for c in table.constraints if isinstance(c, UniqueConstraint | PrimaryKeyConstraint)]
        indexes = [index for index in table.indexes if index.unique]
        for unique in (*constraints, *indexes):
            if len(unique.columns) and columns.issuperset(unique.columns):
                return
    raise ValueError(
        f"{model.__name__} has no unique constraint on {' and '.join(names)}: nothing would keep a second row out."
    )


def _is_of_uniqueness(error: IntegrityError) -> bool:
    """Whether a row that is there stood in the way, rather than a value that is missing or points nowhere."""
    return (
        getattr(error.orig, "sqlstate", None) == _UNIQUE_VIOLATION
        or error_number(error) in _DUPLICATE_ENTRY
        or getattr(error.orig, "sqlite_errorcode", None) in _SQLITE_UNIQUENESS
    )


def _is_of_key(error: IntegrityError, connection: Connection, model: type, names: tuple[str, ...]) -> bool:
    """Whether the constraint that was violated is one that `names` are the key by. PostgreSQL says which it was."""
    said = getattr(error.orig, "diag", None)
    if said is None or said.constraint_name is None:
        return False
    mapper: Mapper[Any] = inspect(model)
    key = {mapper.columns[name].name for name in names}
    index = connection.execute(_COLUMNS_OF_INDEX, {"schema": said.schema_name, "name": said.constraint_name})
    columns = set(index.scalars())
    return bool(columns) and columns <= key

"""Idempotency at the database level: a unique constraint decides, and the row that exists is the answer."""

from collections.abc import Iterable
from typing import Any, TypeVar

try:
    from sqlalchemy import PrimaryKeyConstraint, Table, UniqueConstraint, inspect, select
    from sqlalchemy.exc import IntegrityError
    from sqlalchemy.orm import Mapper, Session, scoped_session
except ImportError as error:
    raise ImportError("create_once needs SQLAlchemy: pip install 'flask-idempotency[sqlalchemy]'") from error

from .sqlite_transactions import begin_for_real

Row = TypeVar("Row")


def create_once(
    session: "Session | scoped_session[Any]", row: Row, *, key: str | Iterable[str] = "idempotency_key"
) -> tuple[Row, bool]:
    """Insert `row`, or find the one that was there first: `order, created = create_once(db.session, Order(…))`.

    `key` names the attribute, or the attributes together, on which the table has a unique constraint. The insert runs
    in a savepoint of the session's own transaction, which goes on unharmed where another was first, in this moment or
    long ago. What commits is the caller's to decide. Raises `ValueError` where no unique constraint of the model would
    keep a second row out, and SQLAlchemy's `IntegrityError` where another constraint is violated.

    On PostgreSQL under REPEATABLE READ or SERIALIZABLE, a transaction does not see a row that was committed after it
    began: then there is only the `IntegrityError`, and the transaction is to be run again. What the column's collation
    takes for equal is one key: by MariaDB's default, `a` and `A`. There, keys that clients choose need a binary one.
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
    except IntegrityError:
        if row in session:
            session.expunge(row)
        query = select(model).filter_by(**values).execution_options(populate_existing=True)
        if connection.dialect.name in {"mysql", "mariadb"}:
            # Under REPEATABLE READ, only a locking read sees what was committed meanwhile. PostgreSQL sees no more by
            # it, and refuses it where the model joins what it loads eagerly.
            query = query.with_for_update(read=True)
        existing = session.execute(query).unique().scalar_one_or_none()
        if existing is None:
            raise
        return existing, False
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

"""Idempotency at the database level: a unique constraint decides, and the row that exists is the answer."""

from collections.abc import Iterable
from typing import Any, TypeVar

try:
    from sqlalchemy import select
    from sqlalchemy.exc import IntegrityError
    from sqlalchemy.orm import Session, scoped_session
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
    long ago. What commits is the caller's to decide. Another violated constraint raises SQLAlchemy's `IntegrityError`.
    """
    names = (key,) if isinstance(key, str) else tuple(key)
    model = type(row)
    values = {name: getattr(row, name) for name in names}
    for name, value in values.items():
        if value is None:
            # SQL takes every NULL for another value: the constraint would let any number of them in.
            raise ValueError(f"{model.__name__}.{name} must be set: it is what makes the row the only one.")
    begin_for_real(session.connection())
    session.flush()  # what fails in here is not ours to catch
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:
        if row in session:
            session.expunge(row)
        # A locking read, since under REPEATABLE READ a plain one does not see what was committed meanwhile.
        query = select(model).filter_by(**values).with_for_update(read=True)
        existing = session.execute(query.execution_options(populate_existing=True)).scalar_one_or_none()
        if existing is None:
            raise
        return existing, False
    return row, True

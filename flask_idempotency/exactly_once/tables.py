"""Tables of ours in the application's database."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, Table
from sqlalchemy.exc import DBAPIError


def in_one_schema(engine: Engine) -> Engine:
    """The engine for our tables: they stand in one place, though the engine may have the schema of a tenant."""
    return engine.execution_options(schema_translate_map=None)


def make_table(table: Table, engine: Engine) -> None:
    """Make the table where it is missing, since the application's migrations have not."""
    try:
        table.create(engine, checkfirst=True)
    except DBAPIError:
        # Another process made it in the same moment; else this raises again.
        table.create(engine, checkfirst=True)


@contextmanager
def discreet() -> Iterator[None]:
    """Keep what is written out of the text of errors, and so out of the application's log."""
    try:
        yield
    except DBAPIError as error:
        error.hide_parameters = True
        raise

"""A statement in the words of its driver."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Connection, Dialect, text


@dataclass(frozen=True, slots=True)
class Call:
    """What SQLAlchemy would send. Compiled once: `text` is looked at anew each time it is executed."""

    sql: str
    order: tuple[str, ...] | None  # of positional parameters; None where they have names

    @classmethod
    def of(cls, statement: str, dialect: Dialect) -> Self:
        """`statement`, whose parameters are written `:name`, for the driver of `dialect`."""
        compiled: Any = text(statement).compile(dialect=dialect)
        return cls(compiled.string, tuple(compiled.positiontup) if compiled.positional else None)

    def parameters(self, values: Mapping[str, Any]) -> Any:
        """`values` as the driver takes them."""
        return values if self.order is None else tuple(values[name] for name in self.order)

    def run(self, connection: Connection, values: Mapping[str, Any]) -> tuple[Any, int]:
        """The first row that it returns, if it returns any, and how many rows it changed."""
        result = connection.exec_driver_sql(self.sql, self.parameters(values))
        return (result.first(), 0) if result.returns_rows else (None, result.rowcount)

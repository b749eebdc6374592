"""Closing the gap between the work and its record: steps, derived keys, rows that are made once."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .unique_rows import create_once

__all__ = ["create_once"]


def __getattr__(name: str) -> object:
    # Late: it needs SQLAlchemy, which steps and derived keys do not.
    if name == "create_once":
        from .unique_rows import create_once

        return create_once
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

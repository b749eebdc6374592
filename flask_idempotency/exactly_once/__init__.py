"""Closing the gap between the work and its record: atomic views, steps, derived keys, rows that are made once."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .kept_requests import request_table
    from .proofs import proof_table
    from .unique_rows import WinnerHidden, create_once

__all__ = ["WinnerHidden", "create_once", "proof_table", "request_table"]


def __getattr__(name: str) -> object:
    # Late: they need SQLAlchemy, which steps and derived keys do not.
    if name in ("WinnerHidden", "create_once"):
        from . import unique_rows

        return getattr(unique_rows, name)
    if name == "proof_table":
        from .proofs import proof_table

        return proof_table
    if name == "request_table":
        from .kept_requests import request_table

        return request_table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""For your tests: the contract that every store fulfils, and a check that a request may be retried."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .contract import StoreContract
    from .retry import assert_retry_safe

__all__ = ["StoreContract", "assert_retry_safe"]


def __getattr__(name: str) -> object:
    # Late, so that pytest's plugin manager loads little, and the contract (which needs pytest) only who asks for it.
    if name == "StoreContract":
        from .contract import StoreContract

        return StoreContract
    if name == "assert_retry_safe":
        from .retry import assert_retry_safe

        return assert_retry_safe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

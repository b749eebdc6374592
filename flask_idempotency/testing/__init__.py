"""For your tests: the contract that every store fulfils, and helpers for an application's own tests."""

from .contract import StoreContract

__all__ = ["StoreContract"]

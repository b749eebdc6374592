"""Flask: hooks, decorators, configuration."""

from .idempotency import Idempotency

__all__ = ["Idempotency"]

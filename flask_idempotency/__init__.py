"""Let clients of a Flask or WSGI application retry any request without doing anything twice.

The front ends are imported on first use, so that `flask_idempotency.client` loads no server code.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine.policy import Policy
    from .extension import Idempotency
    from .middleware import IdempotencyMiddleware

__all__ = ["Idempotency", "IdempotencyMiddleware", "Policy"]


def __getattr__(name: str) -> object:
    if name == "Idempotency":
        from .extension import Idempotency

        return Idempotency
    if name == "IdempotencyMiddleware":
        from .middleware import IdempotencyMiddleware

        return IdempotencyMiddleware
    if name == "Policy":
        from .engine.policy import Policy

        return Policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

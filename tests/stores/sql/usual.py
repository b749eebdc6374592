"""How records are claimed where a test does not care."""

from typing import Any

from flask_idempotency.testing.contract import DAY

USUAL: dict[str, Any] = {"lease": 60.0, "retention": DAY, "take_over": True, "durable": False}

#: For as long as a statement takes.
BRIEF: dict[str, Any] = USUAL | {"lease": 1.0, "retention": 1.0}

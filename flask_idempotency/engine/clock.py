"""The time, as the embedded stores see it."""

import time


def now() -> float:
    """Seconds since the epoch. `time.time` is looked up at each call, so that freezegun moves it."""
    return time.time()

"""Middles and tails of what was timed."""

from collections.abc import Sequence


def percentile(seconds: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed. `nan` of none."""
    if not seconds:
        return float("nan")
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def milliseconds(seconds: float) -> str:
    """For a table."""
    return f"{seconds * 1000:.3g}"

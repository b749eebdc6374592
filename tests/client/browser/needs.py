"""What some tests need of the machine."""

import os
from typing import NoReturn

import pytest


def lacks(what: str) -> NoReturn:
    """Skip a test for want of something. CI must have it: there, its absence fails."""
    tell = pytest.fail if os.environ.get("CI") else pytest.skip
    tell(f"This test needs {what}.")

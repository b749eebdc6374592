"""How many Python functions of ours a request calls that has nothing to do with us."""

import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest

import flask_idempotency
from flask_idempotency.stores import MemoryStore

from .requests import Kind, Shop

OURS = str(Path(flask_idempotency.__file__).parent)

#: What a request pays that passes by, or that has no key where it needs none, by its front end.
CALLS = {
    ("hooks", Kind.GET): 3,
    ("decorator", Kind.GET): 3,
    ("middleware", Kind.GET): 1,
    ("hooks", Kind.NO_KEY): 5,
    ("decorator", Kind.NO_KEY): 8,
    ("middleware", Kind.NO_KEY): 2,
}


@pytest.mark.parametrize(("front_end", "kind"), CALLS)
def test_a_request_that_passes_by_hardly_notices_us(front_end: str, kind: Kind) -> None:
    shop, calls = Shop(MemoryStore(), front_end), Counter[str]()
    shop.cost(kind, Counter)  # what is worked out once, is

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            calls[frame.f_code.co_qualname] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        cost = shop.cost(kind, calls.copy)
    finally:
        sys.setprofile(before)
    assert cost.total() == CALLS[front_end, kind], cost

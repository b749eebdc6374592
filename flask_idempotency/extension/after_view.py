"""Where our after-request hook stands: between those of the view's blueprint and those of the whole application."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

from flask import Flask, Response

from .passage import Passage, passage_here

#: A plain function: Flask looks at each hook on each request, and has longer to look at a method.
AfterHook = Callable[[Passage, Response], Response]


class AppWideHooks(list[Any]):
    """The app-wide after-request hooks, which Flask goes through backwards; ours comes first, where it is needed.

    So what the view and its blueprint answered is kept, and app-wide hooks act once on each response, a replay too;
    and a request that passes us by has no hook more than it would have without us.
    """

    def __init__(self, others: list[Any], ours: AfterHook) -> None:
        super().__init__(others)
        self.ours = ours

    def __reversed__(self) -> Iterator[Any]:
        others = list.__reversed__(self)
        passage = passage_here()
        return others if passage is None else chain((partial(self.ours, passage),), others)


def stand_after_the_view(app: Flask, ours: AfterHook) -> None:
    """See that `ours` runs; again, where the application put another list in the place of this one."""
    hooks = app.after_request_funcs.get(None, [])
    if type(hooks) is not AppWideHooks or hooks.ours is not ours:
        app.after_request_funcs[None] = AppWideHooks(hooks, ours)

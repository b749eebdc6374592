"""What a process that was forked does first."""

import os
import weakref
from collections.abc import Callable


def call_in_child(method: Callable[[], None]) -> None:
    """Call the method of an object, which is not kept alive by this, in each child that is forked from now on."""
    if not hasattr(os, "register_at_fork"):
        return
    known = weakref.WeakMethod(method)

    def call() -> None:
        if (alive := known()) is not None:
            alive()

    os.register_at_fork(after_in_child=call)

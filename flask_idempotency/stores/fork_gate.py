"""Keeps this process from forking while one of its threads is in the middle of something that must not be copied."""

import os
import threading
import time
import weakref
from collections.abc import Callable

#: The longest that a fork is kept waiting, in seconds: what is waited for takes milliseconds. It cannot be refused.
_PATIENCE = 5.0
_POLL = 0.0002


class ForkGate:
    """Closed while this process forks: whoever begins something that a fork must not cut in half looks here first.

    Before a fork, the gate is closed and `close` called, and the fork waits until nobody is `busy` any more; after it,
    in the child, `in_child` is called. All are methods of one object, which is not kept alive by this. To be busy has
    to be said before the gate is looked at, so that either the thread sees it closed or the fork sees the thread.
    """

    def __init__(self, *, close: Callable[[], None], busy: Callable[[], bool], in_child: Callable[[], None]) -> None:
        self._begin_afresh()
        if not hasattr(os, "register_at_fork"):
            return
        me, close_all = weakref.ref(self), weakref.WeakMethod(close)
        is_busy, after_in_child = weakref.WeakMethod(busy), weakref.WeakMethod(in_child)

        def before() -> None:
            if gate := me():
                gate._opened.clear()
            if call := close_all():
                call()
            left = _PATIENCE
            while left > 0 and (ask := is_busy()) and ask():
                time.sleep(_POLL)
                left -= _POLL

        def reopen() -> None:
            if gate := me():
                gate._opened.set()

        def begin_afresh() -> None:
            if gate := me():
                gate._begin_afresh()
            if call := after_in_child():
                call()

        os.register_at_fork(before=before, after_in_parent=reopen, after_in_child=begin_afresh)

    @property
    def is_open(self) -> bool:
        """Whether no fork is under way."""
        return self._opened.is_set()

    def wait(self) -> None:
        """Come back when it is open."""
        self._opened.wait()

    def _begin_afresh(self) -> None:
        self._opened = threading.Event()
        self._opened.set()

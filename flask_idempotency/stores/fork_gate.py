"""Keeps this process from forking while one of its threads is in the middle of something that must not be copied."""

import os
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType

#: The longest that a fork is kept waiting, in seconds: what goes on inside takes milliseconds. It cannot be refused.
_PATIENCE = 5.0
_POLL = 0.0002


class ForkGate:
    """Stand inside (`with gate:`) while doing what a fork must not cut in half; never sleep or wait in there.

    Before a fork, once nobody is inside, `before` is called; after it, in the child, `in_child`. Both must be methods
    of one object, which is not kept alive by this.
    """

    def __init__(self, *, before: Callable[[], None], in_child: Callable[[], None]) -> None:
        self._begin_afresh()
        if not hasattr(os, "register_at_fork"):
            return
        me, before_fork, after_in_child = weakref.ref(self), weakref.WeakMethod(before), weakref.WeakMethod(in_child)

        def close() -> None:
            if gate := me():
                gate._close()
            if call := before_fork():
                call()

        def reopen() -> None:
            if gate := me():
                gate._opened.set()

        def begin_afresh() -> None:
            if gate := me():
                gate._begin_afresh()
            if call := after_in_child():
                call()

        os.register_at_fork(before=close, after_in_parent=reopen, after_in_child=begin_afresh)

    def __enter__(self) -> None:
        me = threading.get_ident()
        while True:
            self._inside.add(me)
            if self._opened.is_set():
                return
            # Said before it was looked at, so that either this thread sees the gate closed or the fork sees it inside.
            self._inside.discard(me)
            self._opened.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._inside.discard(threading.get_ident())

    def crowded(self) -> bool:
        """Whether any thread is inside."""
        return bool(self._inside)

    def _begin_afresh(self) -> None:
        self._inside: set[int] = set()
        self._opened = threading.Event()
        self._opened.set()

    def _close(self) -> None:
        self._opened.clear()
        left = _PATIENCE
        # Oneself is inside only where a signal handler forks.
        while self._inside - {threading.get_ident()} and left > 0:
            time.sleep(_POLL)
            left -= _POLL

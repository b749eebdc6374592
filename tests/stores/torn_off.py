"""Threads that are torn off in the middle of something, as by a signal handler that raises or gevent's `Timeout`."""

import dis
import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

from flask_idempotency.engine.store import StoreUnavailable


class TornOff(BaseException):
    """What a signal handler or gevent's `Timeout` would raise."""


def torn_off(act: Callable[[], object], moment: int, *modules: ModuleType) -> bool:
    """Do it, and be torn off at the moment of that number among those in which these modules can be interrupted.

    False where it ended before.
    """
    left = moment
    files = {module.__file__ for module in modules}

    def trace_modules(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        before = ""

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal left, before
            if event == "opcode":
                # Only after these does CPython look for signals and for exceptions sent to a thread.
                if before.startswith(("CALL", "RESUME", "JUMP_BACKWARD")):
                    if left == 0:
                        left = -1
                        raise TornOff
                    left -= 1
                before = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            return trace

        return trace

    sys.settrace(trace_modules)
    try:
        act()
    except (TornOff, StoreUnavailable):
        pass
    finally:
        sys.settrace(None)
    return left < 0

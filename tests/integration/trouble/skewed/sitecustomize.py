"""A machine whose clock is wrong: Python imports this first of all when its folder is in PYTHONPATH.

CLOCK_SKEW_S shifts what a process takes for the time; timers (`time.monotonic`) run as ever.
"""

import ctypes
import datetime
import gc
import os
import time
from typing import Any

SKEW_S = float(os.environ.get("CLOCK_SKEW_S", "0"))
true_time, true_time_ns, true_now = time.time, time.time_ns, datetime.datetime.now


def skewed_now(cls: Any, tz: Any = None) -> Any:
    shifted = true_now(tz) + datetime.timedelta(seconds=SKEW_S)
    return cls.fromtimestamp(shifted.timestamp(), tz)


if SKEW_S:
    time.time = lambda: true_time() + SKEW_S
    time.time_ns = lambda: true_time_ns() + int(SKEW_S * 1e9)
    # datetime is written in C and takes no assignments: its dictionary does.
    [attributes] = gc.get_referents(datetime.datetime.__dict__)
    attributes["now"] = classmethod(skewed_now)
    attributes["utcnow"] = classmethod(lambda cls: skewed_now(cls, datetime.UTC).replace(tzinfo=None))
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))

"""Tuning of Python's garbage collector for a worker that has started."""

import gc
from typing import Any

_YOUNG_OBJECTS = 10_000


def tune_gc(**_: Any) -> None:
    """Freeze start-up objects (`gc.freeze`) and collect less often.

    Modules, classes and the app live as long as the process, yet each full collection would visit
    their several hundred thousand objects again: tens of milliseconds in which no run continues,
    and a write to every page that prefork's children share with their parent. Call it at the end
    of the start, and before a fork; it is also a receiver of Celery's signals.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])

"""Python's garbage collector in a worker that has started."""

import gc
from typing import Any

_YOUNG_OBJECTS = 10_000


def tune_gc(**_: Any) -> None:
    """Leave what the start has made out of the collector's rounds, and have fewer of them.

    Modules, classes and the app stay until the process ends, yet each full round would look at
    all of their hundred thousands of objects again: tens of milliseconds in which no run goes on,
    and a write to every page that prefork's children share with their parent. For the end of the
    start, and for what children inherit; also a receiver of Celery's signals.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])

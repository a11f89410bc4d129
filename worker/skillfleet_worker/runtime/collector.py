"""Python's garbage collector in a worker that has started."""

import gc

_YOUNG_OBJECTS = 10_000


def relieve_collector() -> None:
    """Leave what the start has made out of the collector's rounds, and have fewer of them.

    Modules, classes and the app stay until the process ends, yet each full round would look at
    all of their hundred thousands of objects again. Call it when the process has started.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])

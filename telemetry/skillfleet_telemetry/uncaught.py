"""Log lines for errors that Python itself prints on stderr, whose texts may hold secrets.

These are errors of plain threads, and those in `__del__` and the like, which no code can catch.
"""

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from skillfleet_telemetry.tame import safe_repr

logger = logging.getLogger(__name__)


def log_uncaught() -> Callable[[], None]:
    """Log such errors from now on; return a function that undoes it.

    A hook that the project has set stays.
    """
    threads, unraisable = threading.excepthook, sys.unraisablehook
    if threads is threading.__excepthook__:
        threading.excepthook = _thread_failed
    if unraisable is sys.__unraisablehook__:
        sys.unraisablehook = _not_raised

    def undo() -> None:
        threading.excepthook, sys.unraisablehook = threads, unraisable

    return undo


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_type is SystemExit:
        return
    name = failure.thread.name if failure.thread is not None else "?"
    logger.error("thread %s ended with an error", name, exc_info=_exc_info(failure))


def _not_raised(failure: "sys.UnraisableHookArgs") -> None:
    # Called at any moment, also while the interpreter shuts down.
    with suppress(Exception):
        text = failure.err_msg or "an error was ignored in"
        logger.error("%s %s", text, safe_repr(failure.object), exc_info=_exc_info(failure))


def _exc_info(
    failure: "threading.ExceptHookArgs | sys.UnraisableHookArgs",
) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    error = failure.exc_value if failure.exc_value is not None else failure.exc_type()
    return failure.exc_type, error, failure.exc_traceback

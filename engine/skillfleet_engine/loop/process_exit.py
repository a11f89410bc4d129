"""A process that ends when it is to end, whatever threads, executors and child processes do.

Python waits at its end for every thread that is no daemon, for the threads of executors and for
multiprocessing's children, however long they take. Here that has a bound: what is left then is
named in one log line, and the process ends.
"""

# Hooks at the interpreter's end run in the reverse order of their registration: these two, which
# wait for executors, after the one below.
import concurrent.futures.process
import concurrent.futures.thread  # noqa: F401
import logging
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

logger = logging.getLogger(__name__)

_AT_EXIT_SECONDS = 2.0
_REPORT_SECONDS = 1.5


class ProcessExit:
    """The certain end of the process that creates this object, once it has been asked for.

    `hand_over` is called first, in a thread, and may take a second.
    """

    def __init__(self, hand_over: Callable[[], object] = lambda: None) -> None:
        self._hand_over = hand_over
        self.code = 0
        """The exit status of a process that had to be ended."""
        self._pid = os.getpid()
        self._deadline = float("inf")
        self._thread: threading.Thread | None = None

    def at_exit(self) -> None:
        """Bound the time that Python waits for others when the interpreter ends."""
        # The documented atexit comes after that wait.
        threading._register_atexit(self._exits)  # type: ignore[attr-defined]  # noqa: SLF001

    def within(self, seconds: float) -> None:
        """End the process in `seconds` at the latest; of several orders the earliest counts.

        Any thread, and signal handlers.
        """
        self._deadline = min(self._deadline, time.monotonic() + seconds)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="process-end", daemon=True)
            self._thread.start()

    def now(self) -> None:
        """End the process at once; what it still holds is named in the log."""
        with suppress(RuntimeError):
            words = threading.Thread(target=self._last, name="last-words", daemon=True)
            words.start()
            words.join(_REPORT_SECONDS)
        os._exit(self.code)

    def _last(self) -> None:
        try:
            self._hand_over()
        except Exception:
            logger.exception("the process ends without having handed over its work")
        _report_threads()

    def _exits(self) -> None:
        # A child of multiprocessing inherits the hook.
        if os.getpid() == self._pid:
            self.within(_AT_EXIT_SECONDS)

    def _watch(self) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        self.now()


def end_children() -> None:
    """End the processes that tasks started with multiprocessing, which no other code ends."""
    for child in multiprocessing.active_children():
        with suppress(Exception):
            child.terminate()


def _report_threads() -> None:
    frames = sys._current_frames()  # noqa: SLF001 - the documented way
    main = threading.main_thread()
    holding = [thread for thread in threading.enumerate() if thread is main or not thread.daemon]
    listed = "\n".join(
        f"{thread.name}:\n{''.join(traceback.format_stack(frames[thread.ident]))}"
        for thread in holding
        if thread.ident in frames
    )
    logger.warning("The process ends although threads of it still run:\n%s", listed)
    end_children()
    with suppress(Exception):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()

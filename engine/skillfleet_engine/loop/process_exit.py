"""A bounded end of the process, independent of threads, executors and child processes.

At its end Python waits for every non-daemon thread, for the threads of executors and for
multiprocessing's children, without a limit. Here the wait has a limit: after it, one log line names
what is left, and the process ends.
"""

# Exit hooks run in the reverse order of their registration: those of these two modules, which
# wait for executors, run after the one below.
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
    """The end of the process that creates this object, certain once it is requested.

    `before_exit` is called first, in a thread, and may take a second.
    """

    def __init__(self, before_exit: Callable[[], object] = lambda: None) -> None:
        self._before_exit = before_exit
        self.code = 0
        """The exit status when the process has to be ended."""
        self._pid = os.getpid()
        self._deadline = float("inf")
        self._thread: threading.Thread | None = None

    def at_exit(self) -> None:
        """Bound the time that Python waits for threads and children when it ends."""
        # The documented atexit runs after that wait.
        threading._register_atexit(self._exits)  # type: ignore[attr-defined]  # noqa: SLF001

    def within(self, seconds: float) -> None:
        """End the process in `seconds` at the latest; of several calls the earliest counts.

        Any thread, and signal handlers.
        """
        self._deadline = min(self._deadline, time.monotonic() + seconds)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="process-end", daemon=True)
            self._thread.start()

    def now(self) -> None:
        """End the process at once, and name the threads that still run in the log."""
        with suppress(RuntimeError):
            last = threading.Thread(target=self._finish, name="before-exit", daemon=True)
            last.start()
            last.join(_REPORT_SECONDS)
        os._exit(self.code)

    def _finish(self) -> None:
        try:
            self._before_exit()
        except Exception:
            logger.exception("the process ends without having released its work")
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
    """End the processes that tasks started with multiprocessing, which would outlive the worker."""
    for child in multiprocessing.active_children():
        with suppress(Exception):
            child.terminate()


def _report_threads() -> None:
    frames = sys._current_frames()  # noqa: SLF001 - the documented way
    main = threading.main_thread()
    holding = [thread for thread in threading.enumerate() if thread is main or not thread.daemon]
    stacks = "\n".join(
        f"{thread.name}:\n{''.join(traceback.format_stack(frames[thread.ident]))}"
        for thread in holding
        if thread.ident in frames
    )
    logger.warning("The process ends although threads of it still run:\n%s", stacks)
    end_children()
    with suppress(Exception):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()

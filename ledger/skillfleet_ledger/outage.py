"""Logging that something is away: once when it goes, once when it is back."""

import logging
import time


class Outage:
    """One thing that is tried again and again, and what the log is told about it.

    `what` says what does not work meanwhile. One thread at a time.
    """

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self._logger = logger
        self._what = what
        self._began: float | None = None

    def begin(self, error: Exception) -> None:
        """It failed; `error` is the reason. The first time it is logged, then at level debug."""
        level = logging.DEBUG
        if self._began is None:
            level, self._began = logging.WARNING, time.monotonic()
        # What is no trouble with the network is somebody's mistake.
        trace = None if isinstance(error, OSError) else error
        self._logger.log(level, "%s: %s", self._what, error, exc_info=trace)

    def end(self) -> None:
        """It worked."""
        if self._began is not None:
            seconds, self._began = time.monotonic() - self._began, None
            self._logger.warning("%s: over after %.1f s", self._what, seconds)

"""Logging that something is away: once when it goes, once when it is back."""

import logging
import time


class Outage:
    """One thing that is tried again and again, and what the log is told about it.

    `what` says in one sentence's beginning what does not work meanwhile. One thread at a time.
    """

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self._logger = logger
        self._what = what
        self._began: float | None = None

    def begin(self, error: object) -> None:
        """It failed; `error` is the reason. Further failures are logged at level debug."""
        if self._began is not None:
            self._logger.debug("%s: %s", self._what, error)
            return
        self._began = time.monotonic()
        self._logger.warning("%s, and will be tried until it works: %s", self._what, error)

    def end(self) -> None:
        """It worked."""
        if self._began is not None:
            seconds, self._began = time.monotonic() - self._began, None
            self._logger.warning("this works again after %.1f s: %s", seconds, self._what)

"""Log lines for an outage: one at its start, one at its end."""

import logging
import time

from skillfleet_ledger.redis_client.replies import ReplyError


class Outage:
    """The log lines of an operation that is retried.

    `what` describes what does not work meanwhile. One thread at a time.
    """

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self._logger = logger
        self._what = what
        self._began: float | None = None
        self._kinds: set[str] = set()

    def begin(self, error: Exception) -> None:
        """Record a failure with its reason, `error`. Each kind of reason is logged once."""
        if self._began is None:
            self._began = time.monotonic()
        kind = _kind(error)
        level = logging.DEBUG if kind in self._kinds else logging.WARNING
        self._kinds.add(kind)
        # An error that is not a network error is a mistake in code or configuration.
        trace = None if isinstance(error, OSError) else error
        self._logger.log(level, "%s: %s", self._what, error, exc_info=trace)

    def end(self) -> None:
        """Record a success."""
        if self._began is not None:
            seconds, self._began = time.monotonic() - self._began, None
            self._kinds.clear()
            self._logger.warning("%s: over after %.1f s", self._what, seconds)


def _kind(error: BaseException | None) -> str:
    """Return the kind of error that Redis answered; '' when it was unreachable."""
    while error is not None:
        if isinstance(error, ReplyError):
            return error.code
        error = error.__cause__
    return ""

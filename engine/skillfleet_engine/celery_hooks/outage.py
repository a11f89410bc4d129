"""Handling of a broker that accepts connections but refuses commands.

Redis refuses commands while it is out of memory, cannot write to its disk, has lost its replicas,
or has other ACLs; RabbitMQ closes the channel of a consumer that acknowledges too late. Celery
reconnects at once, again and again. Here it pauses between attempts, and logs the outage when it
begins and when it ends.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

_LONGEST_PAUSE = 2.0
_FIRST_PAUSE = 0.5
_STEADY_SECONDS = 3.0
_CELERYS = ("celery.worker.consumer.consumer", "celery.worker.consumer.connection")


class Outage(logging.Filter):
    """The outages of one consumer's broker; on the consumer's thread."""

    def __init__(self) -> None:
        super().__init__()
        self._active = False
        self._pause = 0.0
        self._refusal = ""
        self._ready_at: float | None = None
        self._logged: set[object] = set()
        for name in _CELERYS:
            logging.getLogger(name).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass each kind of Celery's log lines about a connection once per outage."""
        if not self._active:
            return True
        known = record.msg in self._logged
        self._logged.add(record.msg)
        return not known

    def failed(self, error: BaseException, sleep: Callable[[float], Any], *, refused: bool) -> None:
        """Log a new refusal and pause, before Celery reconnects.

        `sleep` must not block the event loop.
        """
        if self._ready_at is not None and time.monotonic() - self._ready_at >= _STEADY_SECONDS:
            self._end()
        self._ready_at = None
        if refused and (reason := f"{type(error).__name__}: {error}") != self._refusal:
            self._refusal = reason
            logger.warning("The broker refuses: %s; the worker keeps trying", reason)
        if refused or self._active:
            self._pause = min(max(self._pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
            sleep(self._pause)
        self._active = True

    def ready(self, call_after: Callable[[float, Callable[[], None]], Any]) -> None:
        """Note that the consumer is connected; the outage ends if that lasts."""
        self._ready_at = time.monotonic()
        if self._active:
            call_after(_STEADY_SECONDS, self._lasted)

    def close(self) -> None:
        """Remove the filter from Celery's loggers."""
        for name in _CELERYS:
            logging.getLogger(name).removeFilter(self)

    def _lasted(self) -> None:
        if self._active and self._ready_at is not None:
            if self._refusal:
                logger.warning("The broker accepts commands again")
            self._end()

    def _end(self) -> None:
        self._active, self._pause, self._refusal = False, 0.0, ""
        self._logged.clear()

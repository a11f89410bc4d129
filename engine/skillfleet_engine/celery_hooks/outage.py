"""A broker that takes the connection and refuses what is asked of it.

Redis does so while it has no memory left, cannot write to its disk, lost its replicas, or has a
user with other rights; RabbitMQ closes the channel of a consumer that acknowledges too late. Celery
connects again at once, and again. Here it pauses between two tries, and logs the outage when
it begins and when it is over.
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
    """Belongs to one consumer; on its thread."""

    def __init__(self) -> None:
        super().__init__()
        self._going_on = False
        self._pause = 0.0
        self._refusal = ""
        self._ready_at: float | None = None
        self._logged: set[object] = set()
        for name in _CELERYS:
            logging.getLogger(name).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let each kind of Celery's lines about a connection through once in an outage."""
        if not self._going_on:
            return True
        known = record.msg in self._logged
        self._logged.add(record.msg)
        return not known

    def failed(self, error: BaseException, sleep: Callable[[float], Any], *, refused: bool) -> None:
        """The connection is of no use: log a refusal that is new, and wait a moment.

        Before Celery connects again; `sleep` waits without standing in anybody's way.
        """
        if self._ready_at is not None and time.monotonic() - self._ready_at >= _STEADY_SECONDS:
            self._end()
        self._ready_at = None
        if refused and (reason := f"{type(error).__name__}: {error}") != self._refusal:
            self._refusal = reason
            logger.warning("The broker refuses: %s; the worker tries again and again", reason)
        if refused or self._going_on:
            self._pause = min(max(self._pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
            sleep(self._pause)
        self._going_on = True

    def ready(self, call_after: Callable[[float, Callable[[], None]], Any]) -> None:
        """The consumer is connected: the outage is over if that lasts."""
        self._ready_at = time.monotonic()
        if self._going_on:
            call_after(_STEADY_SECONDS, self._lasted)

    def close(self) -> None:
        """Listen to Celery's lines no more."""
        for name in _CELERYS:
            logging.getLogger(name).removeFilter(self)

    def _lasted(self) -> None:
        if self._going_on and self._ready_at is not None:
            if self._refusal:
                logger.warning("The broker takes what it is asked for again")
            self._end()

    def _end(self) -> None:
        self._going_on, self._pause, self._refusal = False, 0.0, ""
        self._logged.clear()

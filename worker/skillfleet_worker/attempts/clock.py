"""Clock of an attempt: its fixed deadline, and its executing time, which stands while it waits."""

import time
from typing import TypeVar

from skillfleet.contracts import MOST_SECONDS

N = TypeVar("N", int, float)


class Clock:
    """The time that an attempt has.

    The deadline of the run and Celery's time limit are fixed. The skill's timeout counts executing
    time: its rest, `allowance_ms`, moves on while the handler waits. Any thread may read.
    """

    def __init__(
        self,
        redis_ms: int,
        deadline_ms: int | None,
        time_limit: float | None = None,
        allowance_ms: int | None = None,
    ) -> None:
        """`redis_ms` is the present time of Redis, `time_limit` the attempt's, in seconds."""
        self._began = self._running_since = time.monotonic()
        self._began_ms = redis_ms
        self._runs = True
        self._spent = 0.0
        self._allowance = None if allowance_ms is None else allowance_ms / 1000
        self._run_deadline_ms = deadline_ms
        limit = None if time_limit is None else int(min(time_limit, MOST_SECONDS) * 1000)
        self._limit_ms = None if limit is None else redis_ms + limit

    @property
    def redis_ms(self) -> int:
        """The present time of Redis, milliseconds since the epoch."""
        return self._to_redis(time.monotonic())

    @property
    def spent_ms(self) -> int:
        """The executing time of this attempt, in milliseconds."""
        return int(self._spent_until(time.monotonic()) * 1000)

    @property
    def allowance_ms(self) -> int | None:
        """The rest of the executing time, in milliseconds; None without a limit."""
        if self._allowance is None:
            return None
        return int(max(self._allowance - self._spent_until(time.monotonic()), 0) * 1000)

    @property
    def stands_in_waits(self) -> bool:
        """True when the deadline may move."""
        return self._allowance is not None

    @property
    def fixed_ms(self) -> int | None:
        """The deadline that does not move, milliseconds since the epoch by Redis time."""
        return _earliest(self._run_deadline_ms, self._limit_ms)

    @property
    def deadline_ms(self) -> int | None:
        """The time at which the attempt has to end, in the form of `fixed_ms`."""
        end = self._executing_end()
        return _earliest(self.fixed_ms, None if end is None else self._to_redis(end))

    @property
    def deadline(self) -> float | None:
        """The same by `time.monotonic`, for now: while the attempt waits, the fixed one only."""
        fixed = self.fixed_ms
        by_fixed = None if fixed is None else self._began + (fixed - self._began_ms) / 1000
        return _earliest(by_fixed, self._executing_end() if self._runs else None)

    @property
    def by_time_limit(self) -> bool:
        """True when Celery's time limit is the earliest end."""
        return self._limit_ms is not None and self._limit_ms == self.deadline_ms

    def pause(self) -> None:
        """Stop counting: the handler does nothing but wait."""
        if self._runs:
            self._spent = self._spent_until(time.monotonic())
            self._runs = False

    def resume(self) -> None:
        """Count again."""
        if not self._runs:
            self._running_since = time.monotonic()
            self._runs = True

    def _spent_until(self, now: float) -> float:
        return self._spent + (now - self._running_since if self._runs else 0.0)

    def _executing_end(self) -> float | None:
        """Return when the executing time is used up, if the attempt executes until then."""
        if self._allowance is None:
            return None
        since = self._running_since if self._runs else time.monotonic()
        return since + max(self._allowance - self._spent, 0.0)

    def _to_redis(self, moment: float) -> int:
        return self._began_ms + int((moment - self._began) * 1000)


def _earliest(one: N | None, other: N | None) -> N | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)

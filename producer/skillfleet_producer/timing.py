"""Times of schedules: which occurrences are due, as pure functions of times in milliseconds.

All times are Redis times since the epoch. A cron expression is read in its time zone as Debian's
cron reads it: at a change of the clocks, a job at a fixed time runs once (right after a gap, at the
first of two equal times), and one with `*` as its minute or hour runs at real intervals.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from skillfleet.arguments import check_seconds
from skillfleet.contracts import MOST_CATCH_UP
from skillfleet.errors import InvalidArgumentsError

if TYPE_CHECKING:
    pass

MOST_AT_ONCE = MOST_CATCH_UP
"""The most occurrences of a schedule that are on time together: it was looked at late."""
_FIELDS = 5
_SHORTEST_SECONDS = 1.0
_HOUR_MS = 3_600_000
_LAST_MS = 253_000_000_000_000
"""In the year 9987: datetime ends there, too."""


@dataclass(frozen=True)
class Timing:
    """The times of a schedule: a cron expression in a time zone, or even intervals.

    Intervals count from `anchor_ms`. Raises InvalidArgumentsError, which names the field.
    """

    cron: str | None = None
    every: float | None = None
    timezone: str = "UTC"
    anchor_ms: int = 0

    def __post_init__(self) -> None:
        if (self.cron is None) == (self.every is None):
            raise InvalidArgumentsError("a schedule needs either cron or every")
        if not isinstance(self.timezone, str) or self._zone is None:
            raise InvalidArgumentsError(
                f"timezone: {self.timezone!r:.80} is not the name of a time zone, such as"
                " 'Europe/Berlin'"
            )
        if self.every is not None:
            check_seconds("every", self.every)
            if self.every < _SHORTEST_SECONDS:
                raise InvalidArgumentsError(f"every must be at least 1 second, not {self.every}")
            return
        if self.cron is not None:
            _check_cron(self.cron)
            if self.after(0) is None:
                raise InvalidArgumentsError(f"cron: {self.cron!r:.80} is never due")

    def after(self, moment_ms: int) -> int | None:
        """Return the first occurrence after a moment; None where there is none any more."""
        return next(self._from(moment_ms), None)

    def latest(self, after_ms: int, until_ms: int, most: int) -> list[int]:
        """Return the last `most` occurrences after `after_ms` and up to `until_ms`, ascending."""
        if self.every is not None:
            step = self._step_ms
            last = self._number(until_ms)
            first = max(self._number(after_ms) + 1, last - most + 1, 1)
            return [self.anchor_ms + number * step for number in range(first, last + 1)]
        span = _HOUR_MS
        while True:
            # After a long outage, not all that was missed is counted.
            start = max(after_ms, until_ms - span)
            found: deque[int] = deque(maxlen=most)
            for moment in self._from(start):
                if moment > until_ms:
                    break
                found.append(moment)
            if len(found) == most or start == after_ms:
                return list(found)
            span *= 4

    def _from(self, moment_ms: int) -> Iterator[int]:
        if self.every is not None:
            number = max(self._number(moment_ms) + 1, 1)
            while (found := self.anchor_ms + number * self._step_ms) < _LAST_MS:
                yield found
                number += 1
            return
        last = moment_ms
        for each in self._simulated(moment_ms):
            found = round(each.timestamp() * 1000)
            # Where the clocks go back, the library may return times before the given one.
            if found > last:
                yield found
                last = found

    def _simulated(self, moment_ms: int) -> "Iterator[datetime]":
        from cronsim import CronSim  # noqa: PLC0415 - most processes have no schedules

        start = _EPOCH + timedelta(milliseconds=moment_ms)
        return CronSim(self.cron or "", start.astimezone(self._zone))

    def _number(self, moment_ms: int) -> int:
        """Return the number of the last interval that has ended by a moment."""
        return (moment_ms - self.anchor_ms) // self._step_ms

    @property
    def _step_ms(self) -> int:
        return int((self.every or 0) * 1000)

    @cached_property
    def _zone(self) -> ZoneInfo | None:
        try:
            return ZoneInfo(self.timezone)
        except (LookupError, ValueError, OSError):
            return None


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _check_cron(expression: Any) -> None:
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - see above

    fields = expression.split() if isinstance(expression, str) else ()
    if len(fields) != _FIELDS:
        raise InvalidArgumentsError(
            f"cron: {expression!r:.80} must have five fields: minute, hour, day of the month,"
            " month, day of the week"
        )
    try:
        CronSim(expression, _EPOCH)
    except CronSimError as error:
        raise InvalidArgumentsError(f"cron: {expression!r:.80}: {error}") from None


class Due(NamedTuple):
    """The occurrences of a schedule that are to be started, and when the next one is due.

    `dropped` is True when occurrences were missed that are not made up for.
    """

    start: list[int]
    next_ms: int | None
    dropped: bool = False


def due_of(timing: Timing, next_ms: int, now_ms: int, grace_ms: int, catch_up: int) -> Due:
    """Return what is due now, where `next_ms` is the first occurrence that was not handled.

    An occurrence is on time for `grace_ms`; of those missed by more, the latest `catch_up` are
    made up for.
    """
    following = timing.after(now_ms)
    if next_ms > now_ms:
        # Where the clock was set back, the next one may be far away.
        return Due([], min(next_ms, following) if following is not None else None)
    late = max(now_ms - grace_ms, next_ms - 1)
    on_time = timing.latest(late, now_ms, MOST_AT_ONCE)
    missed = timing.latest(next_ms - 1, late, catch_up + 1) if late >= next_ms else []
    made_up = missed[-catch_up:] if catch_up else []
    return Due(made_up + on_time, following, dropped=len(missed) > catch_up)

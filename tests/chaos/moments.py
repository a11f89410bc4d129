"""Moments at which a fault strikes: a certain reply has passed, or is about to.

Scripts are known by the hash by which clients call them. A reply is only known by its looks:
another one of the same connection may spring the trap, which is as good a moment.
"""

import re
from dataclasses import dataclass

from skillfleet_ledger.redis_client.script_source import source
from tests.chaos.schedule import Kind
from tests.support.proxy import Trap


def calls_of(script: str) -> re.Pattern[bytes]:
    """Return a pattern that finds calls of a script."""
    return re.compile(re.escape(source(script)[1].encode()))


@dataclass(frozen=True)
class Moment:
    """What a trap waits for. Without a request, any connection's reply springs it.

    When `passes`, the reply reaches its receiver, and nothing after it. `producer`: on the
    producers' way to Redis, not the workers'.
    """

    request: re.Pattern[bytes] | None
    reply: re.Pattern[bytes]
    passes: bool = True
    producer: bool = False

    def trap(self) -> Trap:
        """Return a trap for this moment."""
        return Trap(self.request, self.reply, passes=self.passes)


ENDS_A_CALLER = re.compile(
    rb"\r\n(?:succeeded|failed)\r\n.*chaos\.leave"
    rb"|\r\n(?:cancelled|timed_out)\r\n.*chaos\.(?:leave|parent)",
    re.DOTALL,
)
"""The request that ends a run which left calls under way: the state, and the result's task."""
ENDED = re.compile(rb"settled\r\n")
PARKED = re.compile(rb"parked\r\n")
DECIDED = re.compile(rb"decided\r\n")
_WRITTEN = re.compile(rb"\*[23]\r\n:1\r\n")
_WAKES = re.compile(rb"wake [0-9a-f]")

_AFTER_END = Moment(ENDS_A_CALLER, ENDED)
_PARKS, _RECORDS = calls_of("park"), calls_of("record")
MOMENTS = {
    Kind.CUT_AFTER_END: _AFTER_END,
    Kind.SILENCE_AFTER_END: _AFTER_END,
    Kind.KILL_AFTER_END: _AFTER_END,
    Kind.KILL_AFTER_PARK: Moment(_PARKS, PARKED),
    Kind.RESTART_AFTER_PARK: Moment(_PARKS, PARKED),
    Kind.CUT_PARK: Moment(_PARKS, PARKED, passes=False),
    Kind.CUT_RECORD: Moment(_RECORDS, _WRITTEN, passes=False),
    Kind.KILL_BEFORE_RECORDED: Moment(_RECORDS, _WRITTEN, passes=False),
    Kind.CUT_DECISION: Moment(calls_of("decide"), DECIDED, passes=False, producer=True),
    Kind.KILL_BEFORE_WAKE: Moment(None, _WAKES, passes=False),
    Kind.DRAIN_AFTER_WAIT: Moment(calls_of("open_wait"), _WRITTEN),
}

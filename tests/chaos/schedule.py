"""The schedule of faults: drawn from a seed, so that a round can be repeated."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """A way to break something."""

    KILL = "kill a worker with all its processes (SIGKILL)"
    KILL_MAIN = "kill a worker's main process (SIGKILL)"
    KILL_CHILD = "kill one child of a prefork worker (SIGKILL)"
    TERM = "drain a worker (SIGTERM)"
    TERM_TWICE = "drain a worker and lose patience (SIGTERM twice)"
    QUIT = "stop a worker at once (SIGQUIT)"
    FREEZE = "freeze a worker (SIGSTOP, SIGCONT)"
    CUT = "cut connections"
    CUT_REPLIES = "cut connections in the middle of a reply"
    CUT_REQUESTS = "cut connections in the middle of a request"
    PARTITION = "let no byte pass between a worker and Redis"
    LATE = "let replies come late, by up to a lease, and then perhaps none"
    CUT_AFTER_END = "cut a worker off right after it ended a run that had called others"
    SILENCE_AFTER_END = "let no byte pass right after a worker ended a run that had called others"
    KILL_AFTER_END = "kill a worker right after it ended a run that had called others (SIGKILL)"
    KILL_AFTER_PARK = "kill a worker right after it parked a run (SIGKILL)"
    RESTART_AFTER_PARK = "kill Redis right after a run was parked, and start it again"
    DRAIN_AFTER_WAIT = "drain a worker right after one of its runs began to wait (SIGTERM)"
    KILL_BEFORE_WAKE = "kill a worker before it learns of a decision (SIGKILL)"
    KILL_BEFORE_RECORDED = "kill a worker before it learns that a step is recorded (SIGKILL)"
    CUT_RECORD = "cut a worker off before it learns that a step is recorded"
    CUT_PARK = "cut a worker off before it learns that a run is parked"
    CUT_DECISION = "cut the producers off before one learns that an answer was accepted"
    FORGET_SCRIPTS = "flush Redis' scripts, again and again, and cut a worker's connections"
    REDIS_RESTART = "kill a server and start it again (SIGKILL)"
    REDIS_FREEZE = "freeze Redis (SIGSTOP, SIGCONT)"
    REDIS_PAUSE = "pause Redis (CLIENT PAUSE)"


_WEIGHTS = {
    Kind.KILL: 4,
    Kind.KILL_MAIN: 2,
    Kind.KILL_CHILD: 3,
    Kind.TERM: 3,
    Kind.TERM_TWICE: 1,
    Kind.QUIT: 1,
    Kind.FREEZE: 4,
    Kind.CUT: 3,
    Kind.CUT_REPLIES: 4,
    Kind.CUT_REQUESTS: 3,
    Kind.PARTITION: 3,
    Kind.LATE: 4,
    Kind.CUT_AFTER_END: 2,
    Kind.SILENCE_AFTER_END: 2,
    Kind.KILL_AFTER_END: 2,
    Kind.KILL_AFTER_PARK: 2,
    Kind.RESTART_AFTER_PARK: 1,
    Kind.DRAIN_AFTER_WAIT: 2,
    Kind.KILL_BEFORE_WAKE: 2,
    Kind.KILL_BEFORE_RECORDED: 2,
    Kind.CUT_RECORD: 2,
    Kind.CUT_PARK: 2,
    Kind.CUT_DECISION: 2,
    Kind.FORGET_SCRIPTS: 3,
    Kind.REDIS_RESTART: 2,
    Kind.REDIS_FREEZE: 1,
    Kind.REDIS_PAUSE: 1,
}
AT_A_MOMENT = (
    *(Kind.CUT_AFTER_END, Kind.SILENCE_AFTER_END, Kind.KILL_AFTER_END),
    *(Kind.KILL_AFTER_PARK, Kind.RESTART_AFTER_PARK, Kind.DRAIN_AFTER_WAIT),
    *(Kind.KILL_BEFORE_WAKE, Kind.KILL_BEFORE_RECORDED),
    *(Kind.CUT_RECORD, Kind.CUT_PARK, Kind.CUT_DECISION),
)
"""Whichever worker is the first to do so after the fault's time."""
_ANYWHERE = (Kind.REDIS_RESTART, Kind.REDIS_FREEZE, Kind.REDIS_PAUSE, *AT_A_MOMENT)


@dataclass(frozen=True)
class Fault:
    """`at` seconds after the start; `worker` is an index, `seconds` how long it lasts."""

    at: float
    kind: Kind
    worker: int
    seconds: float
    size: int
    """Bytes that still pass before a connection is cut in the middle; decides what else is open."""

    def __str__(self) -> str:
        where = "" if self.kind in _ANYWHERE else f", worker {self.worker}"
        return f"{self.at:7.2f} s  {self.kind}{where}, {self.seconds:.1f} s, {self.size} bytes"


def draw(seed: int, seconds: float, workers: int, lease: float, gap: float) -> list[Fault]:
    """Faults for a round; on average one each `gap` seconds, which last up to three leases."""
    dice = random.Random(seed)
    return list(_faults(dice, seconds, workers, lease, gap))


def _faults(
    dice: random.Random, seconds: float, workers: int, lease: float, gap: float
) -> Iterator[Fault]:
    at = dice.expovariate(1 / gap)
    while at < seconds:
        kind = dice.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        lasts = dice.uniform(0.2, 3.0) * lease
        yield Fault(at, kind, dice.randrange(workers), lasts, dice.randrange(1, 4000))
        at += dice.expovariate(1 / gap)

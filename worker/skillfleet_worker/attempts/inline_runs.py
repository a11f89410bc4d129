"""Stopping the child runs that an attempt executes in its own slot, when the attempt ends."""

import asyncio
import logging
import time

from skillfleet.contracts import ReasonCode
from skillfleet_worker.attempts.attempt import Attempt
from skillfleet_worker.attempts.outcomes import Outcome, goes_on
from skillfleet_worker.attempts.process import WorkerProcess
from skillfleet_worker.attempts.stop_request import StopKind, StopRequest

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
_JOIN_SECONDS = 30.0
_CALLER_ENDED = StopRequest(
    StopKind.CANCELLED, "the calling run has ended", ReasonCode.PARENT_ENDED
)
_CALLER_GOES_ON = StopRequest(StopKind.RELEASED, "the calling attempt has ended")


def stop_inline_runs(process: WorkerProcess, attempt: Attempt, outcome: Outcome) -> None:
    """Stop what is executed in the slot of an attempt that has ended.

    A caller that has a further attempt makes its calls again: then they go back to the queue.
    """
    stop = _CALLER_GOES_ON if goes_on(outcome) else _CALLER_ENDED
    for child in _inline_attempts(process, attempt):
        child.request_stop(stop)


async def join_inline_runs(process: WorkerProcess, attempt: Attempt, outcome: Outcome) -> None:
    """Wait until what the attempt's slot executes has ended; leave what does not to the reaper."""
    settings = process.settings
    seconds = settings.cancel_grace_seconds + settings.abandon_seconds + _JOIN_SECONDS
    give_up_at = time.monotonic() + seconds
    while attempt.inline_runs and time.monotonic() < give_up_at:
        # Again: a run that was being claimed before is an attempt only now.
        stop_inline_runs(process, attempt, outcome)
        await asyncio.wait(set(attempt.inline_runs), timeout=_LOOK_SECONDS)
    for child in _inline_attempts(process, attempt):
        logger.error("run %s does not stop and is left to the reaper", child.run_id)
        child.lose()
        process.end(child)


def _inline_attempts(process: WorkerProcess, attempt: Attempt) -> list[Attempt]:
    found = (process.attempts.get(run_id) for run_id in attempt.inline_runs.values())
    return [child for child in found if child is not None and child.loop is attempt.loop]

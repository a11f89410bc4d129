"""Ends that belong together: an attempt and its handler, a called run and its caller.

A time limit here is one of undisturbed time: what Redis, or the worker that it is about, was in
trouble is not counted.
"""

from collections.abc import Iterator, Mapping, Sequence

from skillfleet.contracts import RunState
from tests.chaos.evidence import Execution, Run, Scene

SETTLE_NS = 10_000_000_000
"""From a handler's end to its attempt's: what it emitted leaves, what it executed is stopped. And
from the end of a call to its return."""
END_NS = 20_000_000_000
"""From the end of a caller, or a cancellation, to the end of what has to end by it: a lease, the
reaper's leader lock expires, a grace, and a busy machine."""
_RESTARTS = 3


def handlers(run: Run, executions: Sequence[Execution], scene: Scene) -> Iterator[str]:
    """An attempt ends soon after its handler, whatever its calls do."""
    for one in executions:
        entry = next((item for item in run.attempts if item["number"] == one.attempt), None)
        if entry is None or not one.ended:
            continue
        ended = scene.at(entry.get("ended"))
        quiet = scene.troubles.quiet(one.over, ended, scene.worker(one))
        if quiet > SETTLE_NS:
            yield f"attempt {one.attempt} went on without its handler for {_s(ended - one.over)}"


def children(
    child: Run,
    runs: Mapping[str, Run],
    executions: Mapping[str, Sequence[Execution]],
    scene: Scene,
) -> Iterator[str]:
    """A called run ends with its caller: it is stopped, not started any more, and cancelled."""
    caller = runs.get(child.parent or "")
    if caller is None:
        return
    if caller.skill == "leave" and child.state is RunState.FAILED:
        yield from _unheard(child, executions.get(caller.id, ()), scene)
    over = [one.over for one in executions.get(caller.id, ()) if one.ended]
    if over and caller.state in _BY_ITSELF:
        yield from _started_again(child, max(over), scene)
    if not caller.state.terminal:
        return
    yield from _began_afterwards(child, caller)
    yield from _went_on(child, scene.at(caller.record["finished"]), executions, scene)
    # What such a caller leaves behind lasts far longer than it has time for.
    outlived = int(child.record.get("finished", 0)) > int(caller.record["finished"])
    if caller.skill == "leave" and outlived and child.state is not RunState.CANCELLED:
        yield "its caller ended before, so it should be cancelled"


def cancelled(run: Run, since: int, scene: Scene) -> Iterator[str]:
    """A cancelled run ends soon."""
    ended = scene.at(run.record.get("finished"))
    if scene.troubles.quiet(since, ended) > END_NS:
        yield f"went on for {_s(ended - since)} after it was cancelled"


def _unheard(child: Run, callers: Sequence[Execution], scene: Scene) -> Iterator[str]:
    """A caller that does not handle the failure of a call ends by it."""
    failed = scene.at(child.record["finished"])
    for one in callers:
        if one.first < failed < one.last:
            quiet = scene.troubles.quiet(failed, one.last, scene.worker(one))
            if quiet > SETTLE_NS:
                yield f"its caller went on for {_s(one.last - failed)} after it had failed"


def _started_again(child: Run, since: int, scene: Scene) -> Iterator[str]:
    """Between the end of its caller's handler and its own end, hardly an attempt begins."""
    begun = [item for item in child.attempts if scene.at(item["started"]) > since]
    ended = scene.at(child.record.get("finished"))
    if len(begun) > _RESTARTS + 2 * scene.troubles.count(since, ended):
        yield f"was started {len(begun)} times after its caller's handler had ended"


def _began_afterwards(child: Run, caller: Run) -> Iterator[str]:
    finished = int(caller.record["finished"])
    late = [item["number"] for item in child.attempts if item["started"] > finished]
    if late:
        yield f"attempts {late} began after its caller had ended"


def _went_on(
    child: Run, since: int, executions: Mapping[str, Sequence[Execution]], scene: Scene
) -> Iterator[str]:
    for one in executions.get(child.id, ()):
        if scene.troubles.quiet(since, one.last, scene.worker(one)) > END_NS:
            yield f"was executed for {_s(one.last - since)} after its caller had ended"
            return
    ended = scene.at(child.record.get("finished"))
    if scene.troubles.quiet(since, ended) > END_NS:
        yield f"ended {_s(ended - since)} after its caller"


def _s(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:.1f} s"


_BY_ITSELF = (RunState.SUCCEEDED, RunState.FAILED, RunState.RUNNING)
"""The states of a run whose handler's last end is the caller's."""

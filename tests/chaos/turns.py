"""Sessions: one run of each at a time, in the order of submission, with a state that follows."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from skillfleet.contracts import RunState
from tests.chaos.evidence import Execution, Run, Scene
from tests.chaos.families import END_NS


def turns(
    runs: Mapping[str, Run], executions: Mapping[str, Sequence[Execution]], scene: Scene
) -> Iterator[str]:
    """Check all sessions of a round."""
    by_session: dict[str, list[Run]] = defaultdict(list)
    for run in runs.values():
        if "session" in run.record:
            by_session[run.record["session"]].append(run)
    for session, members in by_session.items():
        ordered = sorted(members, key=lambda run: run.turn)
        for problem in _session(ordered, executions, scene, scene.states.get(session, ())):
            yield f"session {session}: {problem}"


def _session(
    ordered: Sequence[Run],
    executions: Mapping[str, Sequence[Execution]],
    scene: Scene,
    state: Sequence[str],
) -> Iterator[str]:
    began = [run for run in ordered if run.attempts]
    for before, after in pairwise(began):
        if (
            not before.state.terminal
            or int(before.record["finished"]) > after.attempts[0]["started"]
        ):
            yield f"run {after.turn} began before run {before.turn} had ended"
    for place, before in enumerate(ordered):
        for after in ordered[place + 1 :]:
            if _overlap(executions.get(before.id, ()), before, executions.get(after.id, ()), scene):
                yield f"runs {before.turn} and {after.turn} were executed at once"
    succeeded = [run for run in ordered if run.state is RunState.SUCCEEDED]
    for place, run in enumerate(succeeded):
        found = {
            line.value
            for one in executions.get(run.id, ())
            for line in one.lines
            if (line.word, line.name) == ("have", "turns")
        }
        if found - {str(place)}:
            yield f"run {run.turn} found {sorted(found)} turns in the state, not {place}"
    if list(state) != [run.id for run in succeeded]:
        yield f"its state has {len(state)} turns, or others: {len(succeeded)} runs succeeded"


def _overlap(
    before: Sequence[Execution], run: Run, after: Sequence[Execution], scene: Scene
) -> bool:
    """Return whether a handler went on after a later run's began, although it could know."""
    if not after:
        return False
    began = min(one.first for one in after)
    for one in before:
        if one.last < began:
            continue
        # Its end came from outside, or its lease was lost: it learns so when it can.
        could_know = scene.troubles.quiet(began, one.last, scene.worker(one)) > END_NS
        if run.outcome(one.attempt) == "succeeded" or could_know:
            return True
    return False

"""Was anything lost, done twice or left over? Knows the journal and Redis, not the product."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from skillfleet.contracts import RunState
from tests.chaos.durability import durable, given_inputs
from tests.chaos.evidence import Execution, Journal, Run, Scene
from tests.chaos.families import cancelled, children, handlers
from tests.chaos.followers import at_the_broker, followed, limited
from tests.chaos.load import Made
from tests.chaos.orders import ITS_OWN
from tests.chaos.turns import turns


def check(
    runs: Mapping[str, Run], journal: Journal, made: Mapping[str, Made], scene: Scene
) -> list[str]:
    """All that is wrong, a line each; empty when every promise was kept."""
    problems: list[str] = []
    for run_id, one in made.items():
        if run_id in runs:
            problems += _named(runs[run_id], _ordered(runs[run_id], one, runs, journal, scene))
        elif not at_the_broker(run_id, one, scene):
            problems.append(f"{run_id} was accepted and is not in the ledger")
    for run in runs.values():
        executions = journal.executions.get(run.id, [])
        problems += _named(run, _state(run))
        problems += _named(run, _streamed(run))
        problems += _named(run, _executed(run, executions))
        problems += _named(run, _alone(run, executions))
        problems += _named(run, durable(run, executions))
        problems += _named(run, handlers(run, executions, scene))
        problems += _named(run, children(run, runs, journal.executions, scene))
    problems += turns(runs, journal.executions, scene)
    unknown = journal.executions.keys() - runs.keys()
    return problems + [f"{run_id} was executed and is not in the ledger" for run_id in unknown]


def _named(run: Run, problems: Iterator[str]) -> list[str]:
    return [f"{run.id} ({run.skill}, {run.state}): {problem}" for problem in problems]


def _ordered(
    run: Run, made: Made, runs: Mapping[str, Run], journal: Journal, scene: Scene
) -> Iterator[str]:
    yield from _ended_as_ordered(run, made)
    if made.cancelled_at is not None:
        yield from cancelled(run, made.cancelled_at, scene)
    yield from given_inputs(run, made, journal.executions.get(run.id, []))
    yield from limited(run, made, journal.executions.get(run.id, []), scene)
    yield from followed(run, made, runs, journal.executions, scene)


def _ended_as_ordered(run: Run, made: Made) -> Iterator[str]:
    order = made.order
    if run.state is not order.state:
        yield f"should be {order.state}: {run.record.get('code')} {run.record.get('message')}"
    elif run.state is RunState.SUCCEEDED:
        value = (run.result or {}).get("result")
        if order.value not in (value, ITS_OWN):
            yield f"returned {value!r}, not {order.value!r}"
        if run.skill == "parent" and len(run.children) != order.args["children"]:
            yield f"called {len(run.children)} runs"
    if run.attempts and (delay := order.options.get("delay")):
        early = int(run.record["created"]) + delay * 1000 - 1 - run.attempts[0]["started"]
        if early > 0:
            yield f"started {early:.0f} ms before its delay was over"
    if made.followed is not None:
        seen = [event.id for event in made.followed]
        if seen != [event.id for event in run.events]:
            yield f"its reader saw {len(seen)} events of {len(run.events)}, or others"


def _state(run: Run) -> Iterator[str]:
    if not run.state.terminal:
        yield "did not end"
    for earlier, later in pairwise(run.attempts):
        if "ended" not in earlier or earlier["ended"] > later["started"]:
            yield f"attempt {later['number']} began before {earlier['number']} had ended"
        if later["number"] != earlier["number"] + 1:
            yield f"attempt {earlier['number']} is followed by {later['number']}"
    if run.attempts and run.state.terminal and run.outcome(len(run.attempts)) == "":
        yield "ended with an open attempt"


def _streamed(run: Run) -> Iterator[str]:
    """Events stay in the order of attempts and of each attempt; the last attempt's are complete."""
    attempts = [event.attempt for event in run.events]
    if attempts != sorted(attempts):
        yield "a stale attempt wrote events"
    for attempt in set(attempts):
        numbers = run.numbers(attempt)
        if numbers != list(range(len(numbers))):
            yield f"attempt {attempt} has the events {numbers}"
    if run.skill == "stream" and run.state is RunState.SUCCEEDED:
        complete = len(run.numbers(len(run.attempts)))
        if complete != int(run.result["result"] if run.result else -1):
            yield f"the last attempt has {complete} events"


def _executed(run: Run, executions: Sequence[Execution]) -> Iterator[str]:
    """The journal knows each attempt at most once, and the one that succeeded from start to end."""
    for one in executions:
        if one.words.count("start") != 1 or one.words.count("end") > 1:
            yield f"attempt {one.attempt} was executed {one.words.count('start')} times"
    numbers = [one.attempt for one in executions]
    if len(set(numbers)) != len(numbers):
        yield f"attempts were executed several times: {numbers}"
    if not set(numbers) <= {attempt["number"] for attempt in run.attempts}:
        yield f"attempts {numbers} were executed, the ledger knows {len(run.attempts)}"
    if run.state is RunState.SUCCEEDED:
        last = [one for one in executions if one.attempt == len(run.attempts)]
        if not (last and last[0].ended):
            yield "succeeded without having been executed to its end"


def _alone(run: Run, executions: Sequence[Execution]) -> Iterator[str]:
    """Executions overlap only where the older one could not know, and then ended at once.

    A run that is parked may continue before its handler, which only waits, was stopped. A process
    that cannot run (frozen, or its thread is held) cannot learn that its lease ran out; as soon as
    it runs again it has to, however often it stands still before it can.
    """
    for number, older in enumerate(executions):
        for younger in executions[number + 1 :]:
            if older.last < younger.first:
                continue
            if run.outcome(older.attempt) == "parked" and _awake_since(older, younger) < _AWAKE_NS:
                continue
            stood_still = _awake_after_standing_still(older, younger) < _AWAKE_NS
            if not stood_still or run.outcome(older.attempt) != "lost":
                yield (
                    f"attempts {older.attempt} ({run.outcome(older.attempt)}) and"
                    f" {younger.attempt} overlapped: {_reported(older, younger)}"
                )


def _awake_after_standing_still(older: Execution, younger: Execution) -> float:
    """Return for how long (ns) the older one ran, once awake, before it could know; inf if never.

    It woke last with the first sign of life after the younger one's start, where it stood still
    until then, or else before.
    """
    woke = [later for earlier, later in pairwise(older.times) if later - earlier > _STILL_NS]
    first_sign = next(time for time in older.times if time >= younger.first)
    known = [time for time in woke if time <= first_sign]
    if not known:
        return float("inf")
    return _awake(older, known[-1])


def _awake_since(older: Execution, younger: Execution) -> float:
    """Return for how long (ns) the older one ran after the younger one's start."""
    return _awake(older, younger.first)


def _awake(one: Execution, since: int) -> float:
    times = [time for time in one.times if time >= since]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return sum(gap for gap in gaps if gap <= _STILL_NS)


def _reported(older: Execution, younger: Execution) -> str:
    times = [round((time - younger.first) / 1e6) for time in older.times]
    return f"the older one wrote to the journal at {times[-30:]} ms after the younger one's start"


_STILL_NS = 250_000_000
"""More than two ticks long."""
_AWAKE_NS = 1_000_000_000
"""What a process that runs again may take to stop what it holds no lease for."""

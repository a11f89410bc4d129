"""The canvas of a plain client's message: called once when its run succeeded, else never."""

from collections.abc import Iterator, Mapping, Sequence

from skillfleet.contracts import RunState
from tests.chaos.evidence import Execution, Run, Scene
from tests.chaos.families import END_NS
from tests.chaos.load import Made


def at_the_broker(run_id: str, made: Made, scene: Scene) -> bool:
    """A plain client's message has no record until it is claimed; the broker still has it."""
    return made.order.plain is not None and any(one.id == run_id for one in scene.messages)


def followed(
    run: Run,
    made: Made,
    runs: Mapping[str, Run],
    executions: Mapping[str, Sequence[Execution]],
    scene: Scene,
) -> Iterator[str]:
    """Its link or chain is called exactly once, after it succeeded, with what it returned."""
    plain = made.order.plain
    if plain is None or plain.then is None:
        return
    mark = f"for:{run.id}"
    found = [
        runs[one]
        for one, found in executions.items()
        if one in runs and any(mark in execution.words for execution in found)
    ]
    waiting = {
        one.id
        for one in scene.messages
        if one.arguments.get("order") == run.id and one.id not in runs
    }
    count, expected = len(found) + len(waiting), int(run.state is RunState.SUCCEEDED)
    if count != expected:
        yield f"its {plain.then} was called {count} times, not {expected}"
    for one in found if expected else ():
        if int(one.record["created"]) < int(run.record["finished"]):
            yield f"its {plain.then} was called before it had ended"
        if one.state is RunState.SUCCEEDED and _value(one) != _value(run):
            yield f"its {plain.then} was called with {_value(one)!r}, not {_value(run)!r}"


def limited(run: Run, made: Made, executions: Sequence[Execution], scene: Scene) -> Iterator[str]:
    """No attempt goes on beyond its time limit."""
    limits = made.order.plain.limits if made.order.plain else {}
    for one in executions if limits else ():
        until = one.first + int(max(limits.values()) * 1e9)
        if scene.troubles.quiet(until, one.last, scene.worker(one)) > END_NS:
            late = (one.last - until) / 1e9
            yield f"attempt {one.attempt} went on for {late:.1f} s beyond its time limit"


def _value(run: Run) -> object:
    return (run.result or {}).get("result")

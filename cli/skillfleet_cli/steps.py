"""Display of a run's recorded steps, and forks that begin with them."""

from collections.abc import Mapping
from typing import Any

import orjson

from skillfleet.contracts import RecordedStep
from skillfleet_cli.output import Listing, console, duration, print_json, size, styled
from skillfleet_producer import AsyncRunHandle

_MOST_NAME_CHARS = 60


async def list_steps(run: AsyncRunHandle, *, as_json: bool) -> None:
    """Print the entries of a run's journal, in the order of their recording."""
    found = await run.steps()
    if as_json:
        print_json(found)
        return
    if not found:
        console(stderr=True).print("no recorded steps")
        return
    listed = Listing("STEP", "NAME", "KIND", "ATTEMPT", "TOOK", "SIZE", "OUTCOME")
    for step in found:
        listed.add(
            str(step.number),
            _short(step.name),
            step.kind.value,
            str(step.attempt),
            duration(step.duration_seconds),
            size(step.size_bytes),
            styled((_outcome(step), "red" if step.code else "green")),
        )
    listed.print()


async def fork_run(
    run: AsyncRunHandle,
    at_step: str | None,
    args: Mapping[str, Any] | None,
    changes: dict[str, Any],
    caller: dict[str, Any] | None,
    *,
    as_json: bool,
) -> None:
    """Fork a run and print the id of the new one. `changes` replace single arguments."""
    if args is None and changes:
        former = await run.invocation()
        args = orjson.loads(former.args) if former is not None else {}
    given = dict(args) | changes if args is not None else None
    step = int(at_step) if at_step is not None and at_step.isdecimal() else at_step
    forked = await run.fork(step, given, auth=caller)
    if as_json:
        print_json({"id": forked.id, "fork_of": run.id})
    else:
        console().print(forked.id)


def _short(name: str) -> str:
    """Return the first line of a name, which may be a question."""
    line = name.partition("\n")[0]
    return line if len(line) <= _MOST_NAME_CHARS else f"{line[: _MOST_NAME_CHARS - 1]}…"


def _outcome(step: RecordedStep) -> str:
    parts = [step.outcome, step.code or "", (step.message or "").partition("\n")[0]]
    text = ": ".join(part for part in parts if part)
    return f"{text} (try {step.tries})" if step.tries > 1 else text

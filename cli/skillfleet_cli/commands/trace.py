"""The command `trace`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from typing import Annotated

import typer

from skillfleet_cli.options import Json, RunId


def trace(
    run: RunId,
    *,
    children: Annotated[
        int, typer.Option(min=0, max=1000, help="Calls to show for each run: the slowest ones.")
    ] = 10,
    events: Annotated[
        int, typer.Option(min=0, max=10_000, help="Most lines of events for each run.")
    ] = 12,
    steps: Annotated[
        int,
        typer.Option(min=0, max=100_000, help="Most lines of steps and waits for each attempt."),
    ] = 20,
    as_json: Json = False,
) -> None:
    """Show a run's tree as a waterfall: attempts, steps, waits, events, called runs.

    Reads the ledger alone; no trace collector is needed. In the bars, █ is time in a worker, ░ is
    time in the queue or parked; ─ is a step or a call, ┄ a wait. "Replayed" is what an attempt got
    from the journal instead of executing it.

    Example:
      $ skillfleet trace 1f0c…
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.trace import show_trace
    from skillfleet_cli.trace_lines import Bounds

    bounds = Bounds(children=children, events=events, steps=steps)
    with_fleet(lambda fleet: show_trace(fleet, run, bounds, as_json=as_json))

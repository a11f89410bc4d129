"""Verbs on existing runs: status, events, cancel, runs."""

# ruff: noqa: PLC0415 - a verb loads its work when it runs, so that --help is quick

from enum import StrEnum
from typing import Annotated

import typer

from skillfleet_cli.options import Json, RunId


class State(StrEnum):
    """The states of a run, for the help; the SDK's own would cost it a quarter of a second."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    DEAD = "dead"


def status(run: RunId, *, as_json: Json = False) -> None:
    """Show a run: its state, attempts and result.

    Example:
      $ skillfleet status 1f0c…
    """
    from skillfleet_cli.inspection import show_status
    from skillfleet_cli.session import with_fleet

    with_fleet(lambda fleet: show_status(fleet.run(run), as_json=as_json))


def events(
    run: RunId,
    *,
    after: Annotated[
        str | None, typer.Option(metavar="ID", help="Begin behind the event with this id.")
    ] = None,
    follow: Annotated[
        bool, typer.Option(help="Go on until the run ends, or stop at the newest event.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Print a run's events, one a line, as they come.

    Ctrl-C only stops the printing; the run goes on.

    Example:
      $ skillfleet events 1f0c… --after 17-0 --json | jq .payload
    """
    from skillfleet_cli.inspection import print_events
    from skillfleet_cli.session import with_fleet

    with_fleet(lambda fleet: print_events(fleet, run, after, follow=follow, as_json=as_json))


def cancel(
    run: RunId,
    *,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why, for the run's record.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Cancel a run and all runs that it called.

    Example:
      $ skillfleet cancel 1f0c… --reason "wrong folder"
    """
    from skillfleet_cli.inspection import cancel_run
    from skillfleet_cli.session import with_fleet

    with_fleet(lambda fleet: cancel_run(fleet.run(run), reason, as_json=as_json))


def runs(
    *,
    state: Annotated[
        State | None, typer.Option(help="Only runs in this state.", show_default=False)
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only runs of this agent.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most.")] = 20,
    as_json: Json = False,
) -> None:
    """List runs, the newest first.

    Example:
      $ skillfleet runs --state failed --agent librarian
    """
    from skillfleet_cli.inspection import list_runs
    from skillfleet_cli.session import with_fleet

    chosen = state.value if state is not None else None
    with_fleet(lambda fleet: list_runs(fleet, chosen, agent, limit, as_json=as_json))

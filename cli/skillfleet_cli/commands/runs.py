"""The commands on existing runs: status, events, cancel, runs."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from enum import StrEnum
from typing import Annotated

import typer

from skillfleet_cli.options import Json, RunId, SessionOwner, SessionTenant, TagPairs


class State(StrEnum):
    """The states of a run, for the help: importing the SDK's takes a quarter of a second."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
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
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.runs import show_status

    with_fleet(lambda fleet: show_status(fleet.run(run), as_json=as_json))


def events(
    run: RunId,
    *,
    after: Annotated[
        str | None, typer.Option(metavar="ID", help="Start after the event with this id.")
    ] = None,
    follow: Annotated[
        bool, typer.Option(help="Follow until the run ends, or stop at the newest event.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Print a run's events, one per line, as they arrive.

    Ctrl-C only stops the output; the run continues.

    Example:
      $ skillfleet events 1f0c… --after 17-0 --json | jq .payload
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.runs import print_events

    with_fleet(lambda fleet: print_events(fleet, run, after, follow=follow, as_json=as_json))


def cancel(
    run: RunId,
    *,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Reason, kept in the run's record.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Cancel a run and all runs that it called.

    Example:
      $ skillfleet cancel 1f0c… --reason "wrong folder"
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.runs import cancel_run

    with_fleet(lambda fleet: cancel_run(fleet.run(run), reason, as_json=as_json))


def runs(  # noqa: PLR0913 - one parameter for each option
    *,
    state: Annotated[
        State | None, typer.Option(help="Only runs in this state.", show_default=False)
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only runs of this agent.")
    ] = None,
    tag: TagPairs = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="Only runs of this session.")
    ] = None,
    subject: SessionOwner = None,
    tenant: SessionTenant = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN",
            help="Only runs created within this span (90s, 30m, 1h, 7d), or since this time.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most.")] = 20,
    cursor: Annotated[
        str | None,
        typer.Option(metavar="CURSOR", help="Go on where a list ended; it printed its cursor."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List runs, the newest first.

    Where there are more, the cursor for the next list goes to stderr. Where the fleet requires
    authentication, each caller has sessions of its own: --subject and --tenant name the caller.

    Examples:
      $ skillfleet runs --state failed --agent librarian
      $ skillfleet runs --tag tenant=acme --since 1h
      $ skillfleet runs --session chat-42
    """
    from skillfleet_cli.conditions import parse_since, parse_tags
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.runs import list_runs
    from skillfleet_cli.sessions import owner_of

    chosen = state.value if state is not None else None
    conditions = {
        "state": chosen,
        "agent": agent,
        "tags": parse_tags(tag or []),
        "since": parse_since(since) if since is not None else None,
        "session": session,
    }
    with_fleet(
        lambda fleet: list_runs(
            fleet,
            conditions | {"auth": owner_of(fleet, subject, tenant)},
            limit,
            cursor,
            as_json=as_json,
        )
    )

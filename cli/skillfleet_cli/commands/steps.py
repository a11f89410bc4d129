"""The commands on recorded steps: steps, fork."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from typing import Annotated

import typer

from skillfleet_cli.options import ArgumentPairs, Json, JsonArguments, RunId, Scopes, Subject


def steps(run: RunId, *, as_json: Json = False) -> None:
    """List what a run has recorded: its steps, and the waits and calls that ended.

    Example:
      $ skillfleet steps 1f0c…
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.steps import list_steps

    with_fleet(lambda fleet: list_steps(fleet.run(run), as_json=as_json))


def fork(
    run: RunId,
    json: JsonArguments = None,
    *,
    arg: ArgumentPairs = None,
    at_step: Annotated[
        str | None,
        typer.Option(
            metavar="STEP",
            help="Number or name of the first step that the new run executes again.",
            show_default="what failed or was not recorded",
        ),
    ] = None,
    subject: Subject = None,
    scope: Scopes = None,
    as_json: Json = False,
) -> None:
    """Enqueue a new run that begins with the recorded steps of another, and print its id.

    It has the same arguments, unless JSON replaces them; --arg replaces one of them. It belongs to
    no session.

    Examples:
      $ skillfleet fork 1f0c…
      $ skillfleet fork 1f0c… --at-step draft --arg model=gpt-5
    """
    from skillfleet_cli.arguments import parse_arguments
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.steps import fork_run
    from skillfleet_cli.waits import caller_of

    changes = parse_arguments(None, arg or [])
    args = parse_arguments(json, []) if json is not None else None
    caller = caller_of(subject, scope)
    with_fleet(
        lambda fleet: fork_run(fleet.run(run), at_step, args, changes, caller, as_json=as_json)
    )

"""The commands `dead list`, `dead show`, `dead retry` and `dead purge`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from typing import Annotated

import typer

from skillfleet_cli.options import Json, RunId

_AnyId = Annotated[
    str, typer.Argument(metavar="ID", help="Id of a dead run or a dead letter.", show_default=False)
]


def list_(
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most.")] = 20,
    as_json: Json = False,
) -> None:
    """List dead runs and dead letters, the newest first.

    A run is dead when too many of its attempts were lost with their workers. A dead letter is a
    message that cannot become a run.

    Example:
      $ skillfleet dead list
    """
    from skillfleet_cli.dead import list_dead
    from skillfleet_cli.fleet import with_fleet

    with_fleet(lambda fleet: list_dead(fleet, limit, as_json=as_json))


def show(id: _AnyId, *, as_json: Json = False) -> None:
    """Show a dead run with its attempts and invocation, or a dead letter.

    Examples:
      $ skillfleet dead show 1f0c…
      $ skillfleet dead show 1795218064013-0
    """
    from skillfleet_cli.dead import show_dead
    from skillfleet_cli.fleet import with_fleet

    with_fleet(lambda fleet: show_dead(fleet, id, as_json=as_json))


def retry(run: RunId, *, as_json: Json = False) -> None:
    """Enqueue a run again: a new run of the same skill, arguments and options.

    Prints the new run's id. Works for any run that ended without success. A run of a session waits
    there for its turn. Retrying a run twice
    returns the same new run.

    Example:
      $ skillfleet dead retry 1f0c…
    """
    from skillfleet_cli.dead import retry_dead
    from skillfleet_cli.fleet import with_fleet

    with_fleet(lambda fleet: retry_dead(fleet, run, as_json=as_json))


def purge(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    as_json: Json = False,
) -> None:
    """Delete all dead letters. Dead runs expire by themselves, as all runs do.

    Example:
      $ skillfleet dead purge --yes
    """
    from skillfleet_cli.dead import purge_dead
    from skillfleet_cli.fleet import with_fleet

    if not yes:
        typer.confirm("Delete all dead letters?", abort=True)
    with_fleet(lambda fleet: purge_dead(fleet, as_json=as_json))

"""The command `artifacts`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from typing import Annotated

import typer

from skillfleet_cli.options import Json, RunId


def artifacts(
    run: RunId,
    name: Annotated[
        str | None, typer.Argument(help="The artifact to fetch; without it, all are listed.")
    ] = None,
    *,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="A file, a folder, or - for stdout.",
        ),
    ] = None,
    url: Annotated[
        bool,
        typer.Option(
            "--url",
            help="Print a URL that reads it for an hour without credentials; from object storage.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List a run's artifacts, or fetch one.

    Without -o, the artifact is written to the current folder under the last part of its name;
    an existing file is never replaced.

    Example:
      $ skillfleet artifacts 1f0c… report.md -o - | less
    """
    from skillfleet_cli.artifacts import fetch_artifact, list_artifacts, print_url
    from skillfleet_cli.exits import CommandError
    from skillfleet_cli.fleet import with_fleet

    if name is None:
        if output is not None or url:
            raise CommandError(f"{'--url' if url else '-o'} needs the NAME of an artifact")
        with_fleet(lambda fleet: list_artifacts(fleet.run(run), as_json=as_json))
    elif url:
        with_fleet(lambda fleet: print_url(fleet.run(run), name))
    else:
        with_fleet(lambda fleet: fetch_artifact(fleet.run(run), name, output, as_json=as_json))

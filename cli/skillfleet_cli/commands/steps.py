"""The command `steps`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from skillfleet_cli.options import Json, RunId


def steps(run: RunId, *, as_json: Json = False) -> None:
    """List what a run has recorded: its steps, and the waits and calls that ended.

    Example:
      $ skillfleet steps 1f0c…
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.steps import list_steps

    with_fleet(lambda fleet: list_steps(fleet.run(run), as_json=as_json))

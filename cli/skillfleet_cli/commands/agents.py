"""The command `agents`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from skillfleet_cli.options import Json


def agents(*, as_json: Json = False) -> None:
    """List the agents that live workers serve, and their skills.

    Example:
      $ skillfleet agents --json | jq -r '.[].name'
    """
    from skillfleet_cli.agents import list_agents
    from skillfleet_cli.fleet import with_fleet

    with_fleet(lambda fleet: list_agents(fleet, as_json=as_json))

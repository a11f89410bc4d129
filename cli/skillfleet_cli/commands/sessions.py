"""The commands `sessions list` and `sessions show`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from typing import Annotated

import typer

from skillfleet_cli.options import Json, SessionOwner, SessionTenant

_SessionId = Annotated[
    str, typer.Argument(metavar="SESSION", help="Id of the session.", show_default=False)
]


def list_(
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most.")] = 20,
    as_json: Json = False,
) -> None:
    """List sessions, the one that was active last first.

    Example:
      $ skillfleet sessions list
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.sessions import list_sessions

    with_fleet(lambda fleet: list_sessions(fleet, limit, as_json=as_json))


def show(
    session: _SessionId,
    *,
    subject: SessionOwner = None,
    tenant: SessionTenant = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="Runs to list at most.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """Show a session and its runs, the newest first.

    Where the fleet requires authentication, each caller has sessions of its own: --subject and
    --tenant name the caller.

    Example:
      $ skillfleet sessions show chat-42
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.sessions import owner_of, show_session

    with_fleet(
        lambda fleet: show_session(
            fleet, session, owner_of(fleet, subject, tenant), limit, as_json=as_json
        )
    )

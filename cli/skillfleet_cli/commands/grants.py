"""The command `grants revoke`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from typing import Annotated

import typer

from skillfleet_cli.options import SessionOwner, SessionTenant


def revoke(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Id of the run.", show_default=False)
    ] = None,
    *,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="Session, instead of a run.")
    ] = None,
    subject: SessionOwner = None,
    tenant: SessionTenant = None,
) -> None:
    """Revoke all grants of a run's tree and of its session, or those of a session.

    A grant is the access to files that one run hands over to another. Those that are made
    afterwards are not concerned.

    Examples:
      $ skillfleet grants revoke 1f0c…
      $ skillfleet grants revoke --session chat-42
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.grants import revoke_grants

    with_fleet(lambda fleet: revoke_grants(fleet, run, session, subject, tenant))

"""Revocation of grants."""

from skillfleet_cli.exits import CommandError
from skillfleet_cli.output import console
from skillfleet_cli.sessions import owner_of
from skillfleet_producer import AsyncFleet


async def revoke_grants(
    fleet: AsyncFleet,
    run_id: str | None,
    session_id: str | None,
    subject: str | None,
    tenant: str | None,
) -> None:
    """Revoke the grants of a run's tree, or of a session; raises CommandError without one."""
    owner = owner_of(fleet, subject, tenant)
    if (run_id is None) == (session_id is None):
        raise CommandError("pass either RUN or --session")
    if session_id is None:
        if owner is not None:
            raise CommandError("--subject and --tenant are those of a --session")
        await fleet.run(run_id or "").revoke_grants()
        what = f"run {run_id} and of its session"
    else:
        await fleet.session(session_id, auth=owner).revoke_grants()
        what = f"session {session_id}"
    console(stderr=True).print(f"revoked all grants of {what}")

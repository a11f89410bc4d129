"""Display of sessions and their runs."""

from datetime import UTC, datetime

from skillfleet_cli.exits import CommandError
from skillfleet_cli.output import Listing, age, clock, console, print_json, size, styled
from skillfleet_cli.runs import print_runs
from skillfleet_producer import AsyncFleet


async def list_sessions(fleet: AsyncFleet, limit: int, *, as_json: bool) -> None:
    """Print sessions, the one that was active last first."""
    found = await fleet.sessions(limit)
    if as_json:
        print_json(found)
        return
    if not found:
        console(stderr=True).print("no sessions")
        return
    listed = Listing("RUNS", "QUEUED", "STATE", "ACTIVE", "CURRENT RUN", "SESSION")
    now = datetime.now(UTC)
    for each in found:
        listed.add(
            str(each.runs),
            str(each.waiting or ""),
            size(each.state_bytes) if each.state_bytes else "",
            age(now - each.active_at),
            each.current or "",
            each.id,
        )
    listed.print()


def owner_of(fleet: AsyncFleet, subject: str | None, tenant: str | None) -> dict[str, str] | None:
    """Return the claims of the caller whom a session belongs to; raises CommandError."""
    claims = {"sub": subject} if subject is not None else {}
    if tenant is not None:
        if fleet.settings.tenant_claim is None:
            raise CommandError("--tenant needs SKILLFLEET_TENANT_CLAIM, the claim that it is in")
        claims[fleet.settings.tenant_claim] = tenant
    return claims or None


async def show_session(
    fleet: AsyncFleet, session_id: str, owner: dict[str, str] | None, limit: int, *, as_json: bool
) -> None:
    """Print a session and its runs, the newest first."""
    session = fleet.session(session_id, auth=owner)
    status = await session.status()
    runs = await session.runs(limit)
    if as_json:
        run_ids = [run.id for run in runs]
        print_json(status.model_dump(mode="json") | {"run_ids": run_ids})
        return
    facts = Listing("", "", header=False)
    for name, value in (
        ("session", status.id),
        ("runs", str(status.runs)),
        ("queued", str(status.waiting)),
        ("current run", status.current or ""),
        ("state", size(status.state_bytes) if status.state_bytes else ""),
        ("created", clock(status.created_at)),
        ("active", clock(status.active_at)),
    ):
        if value:
            facts.add(styled((name, "bold")), value)
    facts.print()
    if runs:
        console().print()
        print_runs(runs, of_session=True)

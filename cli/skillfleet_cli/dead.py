"""Dead runs (too many lost attempts) and dead letters (messages that cannot become a run)."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from skillfleet.contracts import HEADER, Budget, InvocationHeader, RunState, RunStatus
from skillfleet.errors import UnauthorizedError
from skillfleet.printable import printable_line
from skillfleet_cli.exits import CommandError
from skillfleet_cli.output import (
    Listing,
    age,
    clock,
    console,
    duration,
    pretty_json,
    print_json,
    styled,
)
from skillfleet_cli.runs import reason_of, show_record
from skillfleet_ledger.dead_letters import DeadLetter
from skillfleet_ledger.runs.records import Invocation
from skillfleet_producer import AsyncFleet

_MESSAGE_ID = re.compile(r"\d+-\d+")
_MOST_DEAD_LETTERS = 10_000
"""The number of dead letters that the ledger keeps."""
_SHORT_BODY = 60
_RETRYABLE = (RunState.DEAD, RunState.FAILED, RunState.TIMED_OUT, RunState.CANCELLED)


async def list_dead(fleet: AsyncFleet, limit: int, *, as_json: bool) -> None:
    """Print dead runs and dead letters, the newest first."""
    runs = await fleet.runs(RunState.DEAD, limit=limit)
    refused = await fleet.dead_letters(limit)
    if as_json:
        print_json({"runs": runs, "refused": refused})
        return
    if not runs and not refused:
        console(stderr=True).print("no dead runs, no dead letters")
    if runs:
        _runs_table(runs).print()
    if runs and refused:
        console().print()
    if refused:
        _dead_letters_table(refused).print()


async def show_dead(fleet: AsyncFleet, id: str, *, as_json: bool) -> None:
    """Print a dead run with its invocation, or a dead letter."""
    if _MESSAGE_ID.fullmatch(id):
        message = await _refused(fleet, id)
        if as_json:
            print_json(message)
        else:
            console().print(styled(f"dead letter of {clock(message.at)}: {message.reason}"))
            console().print(f"\n{message.body}")
        return
    status = await fleet.run(id).status()
    invocation = _invocation(await fleet.run(id).invocation(), status)
    if as_json:
        print_json(status.model_dump(mode="json") | {"invocation": invocation})
        return
    show_record(status)
    console().print()
    console().print(f"invocation\n{pretty_json(invocation)}")


async def retry_dead(fleet: AsyncFleet, id: str, *, as_json: bool) -> None:
    """Enqueue a run again as a new run, and print the new run's id.

    It belongs to the session of the first one again, and waits there for its turn.
    A run is retried once: a second call returns the run that the first one created.
    """
    if _MESSAGE_ID.fullmatch(id):
        raise CommandError(f"{id} is a dead letter, not a run: send the message again")
    status = await fleet.run(id).status()
    if status.state not in _RETRYABLE:
        raise CommandError(
            f"run {id} is {status.state}: only a run that did not succeed is retried"
        )
    invocation = await fleet.run(id).invocation()
    if invocation is None:
        raise CommandError(f"run {id} expired just now")
    header = _header(invocation)
    run = await fleet.enqueue(
        status.name,
        _arguments(invocation),
        auth=await _caller(fleet, invocation),
        timeout=_timeout(header, status),
        budget=await _budget(fleet, header, status),
        priority=invocation.priority,
        queue=invocation.queue,
        idempotency_key=f"retry of {id}",
        tags=status.tags,
        session=status.session,
    )
    if as_json:
        print_json({"id": run.id, "retry_of": id})
    else:
        console().print(run.id)


async def _caller(fleet: AsyncFleet, invocation: Invocation) -> Mapping[str, Any] | None:
    """Return the claims of the run's caller, which the new run's token repeats.

    If runs are signed, they come from the old token, verified as a worker does: anyone who
    can enqueue runs could have changed the record itself. Raises CommandError.
    """
    if fleet.settings.auth == "off":
        return _header(invocation).auth
    try:
        from skillfleet_auth.settings import AuthSettings  # noqa: PLC0415
        from skillfleet_auth.token_admission import TokenAdmission  # noqa: PLC0415
        from skillfleet_auth.verification import verifier_from  # noqa: PLC0415
    except ImportError:
        raise CommandError(
            "retrying signed runs needs PyJWT: pip install 'skillfleet[cli,auth]'"
        ) from None
    settings = fleet.settings
    verifier = verifier_from(AuthSettings.load(), settings)
    admission = TokenAdmission(verifier, lambda: fleet.ledger, settings.max_tree_depth)
    try:
        claims = await admission.verify_expired(invocation)
    except UnauthorizedError as error:
        raise CommandError(f"run {invocation.id} is not retried: {error}") from None
    return claims.identity


async def purge_dead(fleet: AsyncFleet, *, as_json: bool) -> None:
    """Delete all dead letters."""
    count = await fleet.purge_dead_letters()
    if as_json:
        print_json({"purged": count})
        return
    console().print(f"Purged {count} dead letters.")
    kept = duration(fleet.settings.retention_seconds)
    console(stderr=True).print(f"Dead runs expire {kept} after they end.")


async def _refused(fleet: AsyncFleet, id: str) -> DeadLetter:
    for message in await fleet.dead_letters(_MOST_DEAD_LETTERS):
        if message.id == id:
            return message
    raise CommandError(f"there is no dead letter {id!r}: see `skillfleet dead list`")


def _invocation(invocation: Invocation | None, status: RunStatus) -> dict[str, Any]:
    """Return the invocation for display; the caller's claims only by their presence."""
    if invocation is None:
        return {}
    try:
        header, arguments = _header(invocation), _arguments(invocation)
    except CommandError as error:
        return {"skill": invocation.task, "unreadable": str(error)}
    return {
        "skill": invocation.task,
        "arguments": arguments,
        "queue": invocation.queue,
        "priority": invocation.priority,
        "timeout": _timeout(header, status),
        "authenticated": header.auth is not None,
        "parent_id": invocation.parent_id,
    }


def _header(invocation: Invocation) -> InvocationHeader:
    """Return the header of the producer's message; raises CommandError.

    Anyone who can enqueue runs can write anything there.
    """
    try:
        headers = orjson.loads(invocation.headers)
        return InvocationHeader.model_validate(headers.get(HEADER, {}))
    except (AttributeError, ValueError) as error:
        raise CommandError(f"run {invocation.id} has an invalid header: {error}") from None


def _arguments(invocation: Invocation) -> Any:
    """Return the arguments; raises CommandError."""
    try:
        return orjson.loads(invocation.args)
    except ValueError as error:
        raise CommandError(
            f"run {invocation.id} has arguments that are not valid JSON: {error}"
        ) from None


def _timeout(header: InvocationHeader, status: RunStatus) -> float | None:
    """Return the run's time-out in seconds, counted from its submission."""
    return _seconds_to(header.deadline_ms, status)


def _seconds_to(end_ms: int | None, status: RunStatus) -> float | None:
    """Return the seconds from the run's submission to `end_ms`."""
    if end_ms is None:
        return None
    return max(end_ms / 1000 - status.created_at.timestamp(), 0.001)


async def _budget(fleet: AsyncFleet, header: InvocationHeader, status: RunStatus) -> Budget:
    """Return the full budget of the run and its tree."""
    calls, tokens = await fleet.run(status.id).budget()
    return Budget(calls=calls, tokens=tokens, seconds=_seconds_to(header.budget_end_ms, status))


def _runs_table(runs: list[RunStatus]) -> Listing:
    listed = Listing("RUN", "SKILL", "DIED", "ATTEMPTS", "REASON")
    now = datetime.now(UTC)
    for run in runs:
        died = f"{age(now - run.finished_at)} ago" if run.finished_at is not None else ""
        listed.add(styled((run.id, "bold")), run.name, died, _outcomes(run), reason_of(run))
    return listed


def _outcomes(run: RunStatus) -> str:
    """Format the attempts with their outcomes: `3 (lost, lost, lost)`."""
    outcomes = ", ".join(attempt.outcome or "running" for attempt in run.attempts)
    return f"{run.attempt}" + (f" ({outcomes})" if outcomes else "")


def _dead_letters_table(refused: list[DeadLetter]) -> Listing:
    listed = Listing("DEAD LETTER", "AT", "BODY", "REASON")
    for message in refused:
        body = printable_line(message.body)
        short = body if len(body) <= _SHORT_BODY else body[: _SHORT_BODY - 1] + "…"
        listed.add(styled((message.id, "bold")), clock(message.at), short, message.reason)
    return listed

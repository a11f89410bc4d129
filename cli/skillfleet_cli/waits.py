"""Display of open waits; answers, rejections and inbox messages."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from skillfleet.arguments import check_answer
from skillfleet.contracts import RunState, RunStatus, Wait, WaitKind
from skillfleet.errors import InvalidArgumentsError, UnknownRunError
from skillfleet_cli.arguments import Given, parse_json, parse_value
from skillfleet_cli.exits import CommandError
from skillfleet_cli.output import Listing, age, clock, console, print_json
from skillfleet_producer import AsyncFleet, AsyncRunHandle


async def list_waits(fleet: AsyncFleet, limit: int, *, as_json: bool) -> None:
    """Print the open waits of the newest `limit` waiting runs, the oldest wait first."""
    runs = await _waiting_runs(fleet, limit)
    read = await asyncio.gather(*(_waits_of(fleet.run(status.id)) for status in runs))
    found = sorted((wait for waits in read for wait in waits), key=lambda wait: wait.opened_at)
    if as_json:
        print_json(found)
        return
    if not found:
        console(stderr=True).print("no run waits")
        return
    listed = Listing("RUN", "WAIT", "KIND", "AGE", "QUESTION")
    now = datetime.now(UTC)
    for wait in found:
        listed.add(wait.run_id, wait.id, wait.kind.value, age(now - wait.opened_at), _text(wait))
    listed.print()


async def answer_run(
    run: AsyncRunHandle,
    given: Given,
    wait_id: str | None,
    caller: dict[str, Any] | None,
    *,
    as_json: bool,
) -> None:
    """Answer a wait of a run with JSON, or with the text itself where its schema says so."""
    waits = [wait for wait in await run.waits() if _is_meant(wait, wait_id)]
    schemas = [wait.value_schema for wait in waits]
    is_secret = any(wait.answer_key is not None for wait in waits)
    if is_secret and given.is_argument:
        raise CommandError(
            "the answer is a secret, and arguments stay in the history of the shell: leave VALUE"
            " out, or pass - or @FILE"
        )

    def fits(value: Any) -> bool:
        try:
            for schema in schemas:
                check_answer(value, schema, secret=is_secret)
        except InvalidArgumentsError:
            return False
        return True

    decided = await run.answer(parse_value(given.text, fits), wait=wait_id, auth=caller)
    _report(run, "answered", done=decided, as_json=as_json)


async def reject_run(
    run: AsyncRunHandle,
    reason: str,
    wait_id: str | None,
    caller: dict[str, Any] | None,
    *,
    as_json: bool,
) -> None:
    """Reject a wait of a run."""
    decided = await run.reject(reason, wait=wait_id, auth=caller)
    _report(run, "rejected", done=decided, as_json=as_json)


async def send_to_run(
    run: AsyncRunHandle, source: str, caller: dict[str, Any] | None, *, as_json: bool
) -> None:
    """Send a JSON message into the inbox of a run."""
    await run.send(parse_json(source), auth=caller)
    _report(run, "sent", done=True, as_json=as_json)


def caller_of(subject: str | None, scopes: Sequence[str] | None) -> dict[str, Any] | None:
    """Return the claims of the caller that the options name; None without any."""
    claims: dict[str, Any] = {"sub": subject} if subject is not None else {}
    if scopes:
        claims["scopes"] = list(scopes)
    return claims or None


def _report(run: AsyncRunHandle, what: str, *, done: bool, as_json: bool) -> None:
    if as_json:
        print_json({"id": run.id, what: done})
    else:
        console().print(f"{run.id} {what}" if done else f"{run.id} was {what} so before")


async def _waiting_runs(fleet: AsyncFleet, limit: int) -> list[RunStatus]:
    """Return the newest waiting runs; a page of them may be incomplete."""
    found: list[RunStatus] = []
    cursor: str | None = None
    while len(found) < limit:
        page = await fleet.runs(RunState.WAITING, limit=limit - len(found), after=cursor)
        found += page
        cursor = page.cursor
        if cursor is None:
            break
    return found


async def _waits_of(run: AsyncRunHandle) -> list[Wait]:
    try:
        return await run.waits()
    except UnknownRunError:
        # It has ended and expired since it was listed.
        return []


def _is_meant(wait: Wait, wait_id: str | None) -> bool:
    if wait_id is not None:
        return wait.id == wait_id
    return wait.kind in (WaitKind.ASK, WaitKind.GRANT)


def _text(wait: Wait) -> str:
    if wait.kind is WaitKind.TIMER:
        return f"until {clock(wait.expires_at)}"
    return (wait.question or wait.name).partition("\n")[0]

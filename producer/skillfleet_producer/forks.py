"""Forks: new runs that begin with what another run has recorded."""

from collections.abc import Mapping
from typing import Any

import orjson

from skillfleet.contracts import HEADER, Fork, InvocationHeader
from skillfleet.errors import InvalidArgumentsError
from skillfleet.tags import TENANT
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.queries import unknown_run
from skillfleet_ledger.runs.records import Invocation
from skillfleet_producer.enqueuing import Enqueuer
from skillfleet_producer.inputs import Caller
from skillfleet_producer.submission import Options

_MOST_NAMED = 20


async def fork_run(
    ledger: Ledger,
    enqueuer: Enqueuer,
    run_id: str,
    at_step: int | str | None,
    args: Mapping[str, Any] | None,
    auth: Caller,
) -> str:
    """Enqueue a fork of a run and return its id; see `AsyncRunHandle.fork`."""
    record = await ledger.queries.invocation(run_id)
    if record is None:
        raise unknown_run(run_id)
    if auth is None and ledger.settings.auth == "off":
        # Nothing proves the claims of a record: where callers are verified, none are taken from it.
        auth = _header_of(record).auth
    fork = Fork(run=run_id, before=await _number_of(ledger, run_id, at_step))
    tags = (await ledger.queries.status(run_id)).tags
    if ledger.settings.tenant_claim is not None:
        # The tenant is that of the caller, who may be another one.
        tags = {name: value for name, value in tags.items() if name != TENANT}
    options = Options(auth=auth, priority=record.priority, queue=record.queue, tags=tags)
    arguments = orjson.loads(record.args) if args is None else args
    new = await enqueuer.prepare(record.task, arguments, options, fork=fork)
    await enqueuer.submit(new)
    return new.id


async def _number_of(ledger: Ledger, run_id: str, at_step: int | str | None) -> int | None:
    """Return the number of a recorded step, the first of its name."""
    if at_step is None:
        return None
    steps = await ledger.journals.list(run_id)
    for step in steps:
        if at_step in (step.number, step.name):
            return step.number
    names = ", ".join(f"{step.number} {step.name}" for step in steps[-_MOST_NAMED:])
    raise InvalidArgumentsError(
        f"at_step: run {run_id} has not recorded {at_step!r}; its last steps: {names or 'none'}"
    )


def _header_of(record: Invocation) -> InvocationHeader:
    try:
        headers = orjson.loads(record.headers)
        return InvocationHeader.model_validate(headers.get(HEADER, {}))
    except (AttributeError, ValueError):
        raise InvalidArgumentsError(f"run {record.id} has an invalid header") from None

"""Calls of other agents, which are entries in runs with a journal."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import orjson

from skillfleet.contracts import EntryKind, WaitKind
from skillfleet.durable import identity as identities
from skillfleet.durable.failures import call_failure, recorded_error, stops
from skillfleet.durable.journal import Journal, journal_of
from skillfleet.durable.steps import StepContext
from skillfleet.errors import IdempotencyConflictError, RunError
from skillfleet.ports.a2a import A2AClient, CallOptions, CallResult
from skillfleet.ports.journal import Entry, WaitSpec
from skillfleet.types import AgentEvent, ArtifactRef


async def run_call(
    context: StepContext,
    client: A2AClient,
    task: tuple[str, str],
    args: Mapping[str, Any],
    options: CallOptions,
) -> CallResult:
    """Return the result of a call: the recorded one, or that of a run which is started now.

    `task` is target and skill. A call of a run without a journal leaves no entry, and one inside
    of a step belongs to the step; both find the run that an earlier attempt started.
    """
    journal = journal_of(context)
    name = ".".join(task)
    digest = identities.digest_of([*task, args])
    await journal.load()
    step = journal.positions.step
    if step is not None:
        if options.key is None:
            options = replace(options, key=journal.call_key(step, digest))
        return await client.call(*task, args, options)
    if not journal.keeps_calls:
        if options.key is None:
            position = journal.count(EntryKind.CALL, name, digest)
            options = replace(options, position=position)
        return await client.call(*task, args, options)
    async with journal.asking(EntryKind.CALL, name, options.key, digest) as identity:
        entry = journal.find(identity)
        if entry is not None:
            return await _replayed(journal, entry, digest)
        call = _Call(context, journal, identity, name, digest)
        return await call.run(client, task, args, options)


class _Call:
    """A call that is not recorded."""

    def __init__(
        self, context: StepContext, journal: Journal, identity: str, name: str, digest: str
    ) -> None:
        self._context = context
        self._journal = journal
        self._identity = identity
        self._name = name
        self._digest = digest
        self._wait_id: str | None = None
        self._started = journal.start(identity, EntryKind.CALL, name)

    async def run(
        self,
        client: A2AClient,
        task: tuple[str, str],
        args: Mapping[str, Any],
        options: CallOptions,
    ) -> CallResult:
        """Make the call; return its result, or raise what the called run ended with."""
        position = identities.read_count(self._identity) if options.key is None else None
        options = replace(options, position=position, wait=self._wait)
        try:
            result = await client.call(*task, args, options)
        except RunError as error:
            if stops(self._journal, error, self._context.deadline):
                raise
            entry = self._journal.entry(self._started, failure=call_failure(error))
            await self._record(entry)
            self._journal.raised(error, self._identity)
            raise
        await self._record(self._journal.entry(self._started, _encoded(result, self._digest)))
        return result

    async def _wait(self, run_id: str) -> None:
        """Wait for the end of the called run, as the handler waits for an answer."""
        spec = WaitSpec(self._identity, WaitKind.CALL, name=self._name, call=run_id)
        self._wait_id = await self._journal.open_wait(spec)
        await self._journal.store.decision(self._wait_id)

    async def _record(self, entry: Entry) -> None:
        await self._journal.record(entry, self._wait_id)
        self._journal.passed(entry)


async def _replayed(journal: Journal, entry: Entry, digest: str) -> CallResult:
    if entry.failure is not None:
        journal.passed(entry)
        error = recorded_error(entry, entry.failure)
        journal.raised(error, entry.identity)
        raise error
    recorded = orjson.loads(await journal.value(entry))
    if recorded["call"] != digest:
        raise IdempotencyConflictError(
            f"the key of this call was used by an earlier attempt for other arguments of"
            f" {entry.name}: use one key for each call"
        )
    journal.passed(entry)
    return CallResult(
        recorded["result"],
        tuple(AgentEvent(kind, payload, step=step) for kind, payload, step in recorded["events"]),
        tuple(ArtifactRef(**ref) for ref in recorded["artifacts"]),
        recorded["grant_id"],
    )


def _encoded(result: CallResult, digest: str) -> bytes:
    recorded = {
        "call": digest,
        "result": result.result,
        "events": [(event.kind, event.payload, event.step) for event in result.events],
        "artifacts": [asdict(ref) for ref in result.artifacts],
        "grant_id": result.grant_id,
    }
    return orjson.dumps(recorded)

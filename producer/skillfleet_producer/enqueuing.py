"""The enqueuing of runs: checks an invocation, builds its record, writes and publishes it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import orjson

from skillfleet.contracts import Fork
from skillfleet.errors import InvalidArgumentsError
from skillfleet.ports.admission import IncomingInput, InputKind
from skillfleet_auth.signing import Signing
from skillfleet_ledger import Settings
from skillfleet_ledger.directory import Directory
from skillfleet_ledger.keys import Keyspace
from skillfleet_ledger.redis_client.connection import Connection
from skillfleet_ledger.runs.inbox import InboxMessage
from skillfleet_ledger.runs.queries import Queries
from skillfleet_ledger.runs.records import Submission
from skillfleet_ledger.runs.sessions import Sessions
from skillfleet_ledger.runs.submissions import SessionMovedError, Submissions
from skillfleet_producer.clock import RedisClock
from skillfleet_producer.message import envelope
from skillfleet_producer.publisher import Publisher, publish_or_leave
from skillfleet_producer.routes import Catalogue
from skillfleet_producer.submission import (
    Call,
    Options,
    Parent,
    build_submission,
    claims_of,
    fork_submission,
    invocation_from,
    read_call,
    split_task,
)
from skillfleet_producer.tracing import mark_duplicate, sending

_BATCH = 100
_BATCHES_IN_FLIGHT = 10
_MOST_MOVES = 5
"""How often a message is addressed anew, as the session's next run has its turn."""


class EnqueueLedger(Protocol):
    """The part of the ledger that enqueuing needs: `Ledger` and `BlockingLedger` have it."""

    settings: Settings
    keys: Keyspace
    submissions: Submissions
    queries: Queries
    sessions: Sessions
    directory: Directory

    @property
    def connection(self) -> Connection:
        """The connection that all calls share."""


class Enqueuer:
    """Enqueues runs in one step, or in two for callers that need the record in between.

    `publisher` is for brokers that are not the ledger's Redis; without it, such runs are left to
    the reaper. Errors as `AsyncFleet.enqueue`.
    """

    def __init__(self, ledger: EnqueueLedger, publisher: Publisher | None = None) -> None:
        self._ledger = ledger
        self._settings = ledger.settings
        self._publisher = publisher
        self._catalogue = Catalogue(
            ledger.directory,
            ledger.connection,
            accept_new_agents=self._settings.unserved_seconds > 0,
        )
        self._clock = RedisClock(ledger.directory)
        self.signing = Signing(ledger.settings)

    async def enqueue(self, skill: object, args: Mapping[str, Any], options: Options) -> str:
        """Enqueue a run and return its id."""
        new = await self.prepare(skill, args, options)
        if new.on_busy == "send":
            await self._submit_or_send(new, options)
        else:
            await self.submit(new)
        return new.id

    async def enqueue_many(
        self, skill: object, args_list: Sequence[Mapping[str, Any]], options: Options
    ) -> list[str]:
        """Enqueue one run for each entry of `args_list` and return their ids.

        All arguments are checked before the first run is written.
        """
        if options.on_busy == "send":
            raise InvalidArgumentsError('on_busy="send" is for one run at a time: use enqueue')
        if options.idempotency_key is not None:
            keys = [f"{options.idempotency_key}/{index}" for index in range(len(args_list))]
            each = [replace(options, idempotency_key=key) for key in keys]
        else:
            each = [options] * len(args_list)
        calls = await self._checked(skill, args_list)
        now_ms = await self._clock.now_ms()
        errors: list[Exception] = []
        # The runs of a session are numbered as they are written.
        in_flight = asyncio.Semaphore(1 if options.session is not None else _BATCHES_IN_FLIGHT)

        async def write(start: int) -> list[str]:
            async with in_flight:
                if errors:
                    return []
                batch = slice(start, start + _BATCH)
                pairs = zip(calls[batch], each[batch], strict=True)
                try:
                    new = [self._built(call, option, now_ms) for call, option in pairs]
                    await self._submit_batch(new)
                except Exception as error:  # noqa: BLE001 - raised below
                    # Raised after the other batches have ended, so that nothing is written later.
                    errors.append(error)
                    return []
                return [submission.id for submission in new]

        writes = []
        async with asyncio.TaskGroup() as group:
            for start in range(0, len(calls), _BATCH):
                writes.append(group.create_task(write(start)))
                # Send the batch while the next one is built.
                await asyncio.sleep(0)
        if errors:
            raise errors[0]
        return [run_id for batch in writes for run_id in batch.result()]

    async def prepare(
        self,
        skill: object,
        args: Mapping[str, Any],
        options: Options,
        parent: Parent | None = None,
        fork: Fork | None = None,
    ) -> Submission:
        """Check an invocation and return the record of its run, which is not written yet."""
        (call,) = await self._checked(skill, [args], is_called=parent is not None)
        return self._built(call, options, await self._clock.now_ms(), parent, fork)

    async def prepare_due(
        self, skill: str, args: Mapping[str, Any], options: Options, delegation: str
    ) -> Submission:
        """Return the record of a run of a schedule, signed under its delegation ('': none)."""
        call, claims = await self.check(skill, args), claims_of(options.auth)
        now_ms = await self._clock.now_ms()
        new = build_submission(self._settings, call, options, now_ms, claims=claims)
        return self.signing.fired(new, delegation)

    async def check(self, skill: object, args: Mapping[str, Any]) -> Call:
        """Return the call of a skill with arguments that some worker accepts."""
        (call,) = await self._checked(skill, [args])
        return call

    async def submit(self, new: Submission) -> bool:
        """Write a prepared run and publish it; False when it existed before."""
        with sending(new) as sent:
            created = await self._write(sent)
            if not created:
                mark_duplicate()
            return created

    async def _submit_or_send(self, new: Submission, options: Options) -> None:
        """Write a run of a session, and send it as a message to the run whose turn it is."""
        claims, session = claims_of(options.auth), new.session or ""
        by = str((claims or {}).get("sub") or "")
        for _ in range(_MOST_MOVES):
            current = await self._ledger.sessions.current(session) or ""
            given = IncomingInput(
                current, "", InputKind.MESSAGE, orjson.loads(new.args), by, None, ()
            )
            token = self.signing.input_token(given, claims)
            message = InboxMessage(new.args, by, token, new.id).packed()
            try:
                await self.submit(new.changed(message=(current, message)))
            except SessionMovedError:
                continue
            return
        # Its runs end faster than a message reaches them.
        await self.submit(new.changed(on_busy=None))

    async def _checked(
        self, skill: object, args_list: Sequence[Mapping[str, Any]], *, is_called: bool = False
    ) -> list[Call]:
        """Return calls that some worker accepts, as far as the catalogue knows."""
        agent, name = split_task(skill)
        route = await self._catalogue.route_for(agent, name, is_called=is_called)
        return [read_call(self._settings, agent, name, args, route) for args in args_list]

    def _built(
        self,
        call: Call,
        options: Options,
        now_ms: float,
        parent: Parent | None = None,
        fork: Fork | None = None,
    ) -> Submission:
        claims = claims_of(options.auth)
        new = build_submission(self._settings, call, options, now_ms, parent, claims)
        if fork is not None:
            new = fork_submission(new, fork, self._ledger.keys)
        return self.signing.signed(new, claims, parent.depth + 1 if parent else 0)

    async def _submit_batch(self, new: Sequence[Submission]) -> None:
        if not self._settings.broker_is_ledger or new[0].delay_ms:
            await asyncio.gather(*(self.submit(submission) for submission in new))
            return
        items = []
        for submission in new:
            with sending(submission) as sent:
                items.append((sent, envelope(invocation_from(sent))))
        await self._ledger.submissions.submit_many(items)

    async def _write(self, new: Submission) -> bool:
        submissions = self._ledger.submissions
        if self._settings.broker_is_ledger and not new.delay_ms:
            return await submissions.submit(new, envelope(invocation_from(new)))
        created = await submissions.submit(new)
        if not created or new.delay_ms or self._publisher is None:
            return created
        # What frees a held run publishes it.
        if new.session is None or not await self._ledger.queries.is_held(new.id):
            await publish_or_leave(self._publisher, invocation_from(new))
        return created

"""The asynchronous fleet: the one implementation of the producer's verbs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, Unpack

from skillfleet.contracts import AgentCard, ArtifactInfo, RunEvent, RunState, RunStatus
from skillfleet.errors import (
    ResultTimeoutError,
    RunCancelled,
    RunError,
    RunFailed,
    RunTimedOut,
    SettingsError,
    UnknownRunError,
)
from skillfleet_auth.signing import Signing
from skillfleet_ledger import Ledger, Settings
from skillfleet_ledger.celery_format import End
from skillfleet_ledger.redis_client.address import Address
from skillfleet_ledger.redis_client.protocol import utf8
from skillfleet_ledger.runs.records import Submission
from skillfleet_producer.clock import RedisClock
from skillfleet_producer.message import envelope
from skillfleet_producer.publisher import Publisher, publish_or_leave, publisher_for
from skillfleet_producer.routes import Catalogue
from skillfleet_producer.submission import (
    Call,
    EnqueueOptions,
    Options,
    Parent,
    build_submission,
    claims_of,
    invocation_from,
    read_call,
    split_task,
)
from skillfleet_producer.tracing import existed, sending

CLIENT_NAME = "skillfleet-producer"
"""What a producer's connections are called in Redis."""
_RECHECK_SECONDS = 5.0
_LONGEST_ID = 4096
_TOGETHER = 100
_UNDER_WAY = 10
_ERRORS: dict[RunState, type[RunError]] = {
    RunState.FAILED: RunFailed,
    RunState.DEAD: RunFailed,
    RunState.CANCELLED: RunCancelled,
    RunState.TIMED_OUT: RunTimedOut,
}


def chosen_settings(url: str | None, settings: Settings | None) -> Settings:
    """The settings given, else the environment's, at `url` if given; raises SettingsError."""
    given = settings.model_dump() if settings is not None else {}
    kind = type(settings) if settings is not None else Settings
    if url is None:
        return kind.load(**given)
    try:
        Address.parse(url)
    except ValueError as error:
        raise SettingsError(f"url: {error}") from None
    return kind.load(**(given | {"redis_url": url}))


class AsyncFleet:
    """A fleet, seen by a backend service. An async context manager; safe for many tasks.

    `url` is the Redis URL of the fleet (default: `SKILLFLEET_REDIS_URL`); a runtime that has a
    `ledger` already passes that instead. Belongs to the event loop that first uses it: another
    one gets WrongLoopError, unless the first is closed by then, as between two `asyncio.run`. All
    methods raise FleetUnavailableError when Redis stays out of reach, or full, for longer than
    `SKILLFLEET_REDIS_TIMEOUT_SECONDS`, at once when it refuses user, password or database, and
    FleetClosedError after `close`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        settings: Settings | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        if ledger is None:
            ledger = Ledger(chosen_settings(url, settings), name=CLIENT_NAME)
        self.ledger = ledger
        self.settings = ledger.settings
        self._catalogue = Catalogue(self.ledger)
        self._clock = RedisClock(self.ledger)
        self._publisher: Publisher = publisher_for(self.ledger)
        self._signing = Signing(self.settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; runs go on. Tasks that wait get FleetClosedError."""
        await self.ledger.close()
        await self._publisher.close()

    async def enqueue(
        self,
        skill: object,
        args: Mapping[str, Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> "AsyncRunHandle":
        """Enqueue one run of `skill` ('<agent>.<skill>' or a skill object) and return its handle.

        `options` are the fields of `Options`: auth, idempotency_key, timeout, delay (seconds),
        priority (0, most urgent, to 9), queue, budget (for the run and all those it calls).
        When this returns, the run is durable.

        Raises InvalidArgumentsError, ArgumentsTooLargeError, UnknownSkillError,
        IdempotencyConflictError, UnauthorizedError (the fleet takes signed runs only, and there
        is no key to sign with) and FleetUnavailableError.
        """
        new = await self.prepare(skill, args or {}, Options(**options))
        created = await self.submit(new)
        return AsyncRunHandle(self, new.id, is_new=created)

    async def enqueue_many(
        self,
        skill: object,
        args_list: Sequence[Mapping[str, Any]],
        **options: Unpack[EnqueueOptions],
    ) -> list["AsyncRunHandle"]:
        """Enqueue one run for each entry of `args_list`; options and errors as `enqueue`.

        All arguments are checked before the first run is written. The writes leave a hundred at
        a time, while the next hundred are made.
        """
        chosen = Options(**options)
        if chosen.idempotency_key is not None:
            keys = [f"{chosen.idempotency_key}/{index}" for index in range(len(args_list))]
            each = [replace(chosen, idempotency_key=key) for key in keys]
        else:
            each = [chosen] * len(args_list)
        calls = await self._checked(skill, args_list)
        now_ms = await self._clock.now_ms()
        errors: list[Exception] = []
        room = asyncio.Semaphore(_UNDER_WAY)

        async def write(start: int) -> list[AsyncRunHandle]:
            async with room:
                if errors:
                    return []
                together = slice(start, start + _TOGETHER)
                pairs = zip(calls[together], each[together], strict=True)
                try:
                    new = [self._built(call, option, now_ms) for call, option in pairs]
                    await self._submit_together(new)
                except Exception as error:  # noqa: BLE001 - raised below
                    # Whoever gets it finds nothing still being written: the others end first.
                    errors.append(error)
                    return []
                return [self.run(submission.id) for submission in new]

        writes = []
        async with asyncio.TaskGroup() as group:
            for start in range(0, len(calls), _TOGETHER):
                writes.append(group.create_task(write(start)))
                # What was made leaves now.
                await asyncio.sleep(0)
        if errors:
            raise errors[0]
        return [handle for batch in writes for handle in batch.result()]

    def run(self, run_id: str) -> "AsyncRunHandle":
        """A handle on an existing run; whether it exists shows at the first use."""
        return AsyncRunHandle(self, run_id)

    async def runs(
        self, state: RunState | str | None = None, agent: str | None = None, limit: int = 50
    ) -> list[RunStatus]:
        """Runs, newest first; raises ValueError for a state that is none."""
        chosen = RunState(state) if state is not None else None
        return await self.ledger.runs.newest(state=chosen, agent=agent, limit=limit)

    async def agents(self) -> list[AgentCard]:
        """The cards of all agents that live workers serve."""
        return await self.ledger.directory.agents()

    async def prepare(
        self,
        skill: object,
        args: Mapping[str, Any],
        options: Options,
        parent: Parent | None = None,
    ) -> Submission:
        """Check an invocation and make the record of its run, unwritten; errors as `enqueue`."""
        (call,) = await self._checked(skill, [args])
        return self._built(call, options, await self._clock.now_ms(), parent)

    async def _checked(self, skill: object, args_list: Sequence[Mapping[str, Any]]) -> list[Call]:
        """Calls that some worker takes, as far as is known; errors as `enqueue`."""
        agent, name = split_task(skill)
        take = await self._catalogue.taker(agent, name)
        return [read_call(self.settings, agent, name, args, take) for args in args_list]

    def _built(
        self, call: Call, options: Options, now_ms: float, parent: Parent | None = None
    ) -> Submission:
        new = build_submission(self.settings, call, options, now_ms, parent)
        depth = parent.depth + 1 if parent else 0
        return self._signing.signed(new, claims_of(options.auth), depth)

    async def _submit_together(self, new: Sequence[Submission]) -> None:
        if not self.settings.broker_is_ledger or new[0].delay_ms:
            await asyncio.gather(*(self.submit(submission) for submission in new))
            return
        items = []
        for submission in new:
            with sending(submission) as sent:
                items.append((sent, envelope(invocation_from(sent))))
        await self.ledger.runs.submit_many(items)

    async def submit(self, new: Submission) -> bool:
        """Write a prepared run and publish it; False when it existed before."""
        with sending(new) as sent:
            created = await self._write(sent)
            if not created:
                existed()
            return created

    async def _write(self, new: Submission) -> bool:
        if self.settings.broker_is_ledger and not new.delay_ms:
            return await self.ledger.runs.submit(new, envelope(invocation_from(new)))
        created = await self.ledger.runs.submit(new)
        if created and not new.delay_ms:
            await publish_or_leave(self._publisher, invocation_from(new))
        return created


class AsyncRunHandle:
    """One run, wherever it is: queued, running on some worker, or finished."""

    def __init__(self, fleet: AsyncFleet, run_id: str, *, is_new: bool = False) -> None:
        self.id = run_id
        self._is_new = is_new
        """It was made a moment ago: whoever waits for its end listens first, and looks then."""
        self._fleet = fleet

    @property
    def _ledger(self) -> Ledger:
        """The ledger, for an id that a run can have; raises UnknownRunError."""
        if not utf8(self.id) or len(self.id) > _LONGEST_ID:
            raise UnknownRunError(f"there is no run {self.id!r:.100}: that is not the id of a run")
        return self._fleet.ledger

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    def through(self, fleet: AsyncFleet) -> "AsyncRunHandle":
        """The same run, seen through another fleet object."""
        return self if fleet is self._fleet else AsyncRunHandle(fleet, self.id, is_new=self._is_new)

    async def status(self) -> RunStatus:
        """A snapshot of the run; raises UnknownRunError."""
        return await self._ledger.runs.status(self.id)

    async def cancel(self, reason: str | None = None) -> bool:
        """Cancel the run and all runs it called; False when it had ended before.

        Durable: it reaches a queued run, and a running one on whatever worker. Raises
        UnknownRunError.
        """
        told = (reason or "cancelled by the caller").encode(errors="replace").decode()
        return await self._ledger.runs.cancel(self.id, told)

    async def events(
        self, after: str | None = None, timeout: float | None = None
    ) -> AsyncIterator[RunEvent]:
        """Yield the run's events, live, behind the id `after`; ends after the final event.

        `timeout` is the longest silence to bear, in seconds: ResultTimeoutError then. A gap
        that the stream's cap left shows as one event of kind `trimmed`. Raises
        UnknownRunError, and ValueError when `after` is not an event id.
        """
        async for batch in self.event_batches(after, timeout):
            for event in batch:
                yield event

    async def event_batches(
        self, after: str | None = None, timeout: float | None = None
    ) -> AsyncIterator[list[RunEvent]]:
        """Like `events`, in lists of what has arrived together: faster for many events."""
        batches = self._ledger.streams.batches(self.id, after)
        try:
            while True:
                try:
                    async with asyncio.timeout(timeout):
                        batch = await anext(batches)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise self._waited_in_vain(timeout, "an event") from None
                yield batch
        finally:
            await batches.aclose()  # type: ignore[attr-defined]

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the end of the run and return its value.

        Raises RunFailed, RunCancelled or RunTimedOut (each with code and message) for the
        other endings, ResultTimeoutError after `timeout` seconds, UnknownRunError.
        """
        try:
            async with asyncio.timeout(timeout):
                end = await self.ended()
        except TimeoutError:
            raise self._waited_in_vain(timeout, "its end") from None
        if end.state is RunState.SUCCEEDED:
            return end.value
        raise _ERRORS[end.state](end.message or end.state, code=end.code, run_id=self.id)

    async def artifacts(self) -> list[ArtifactInfo]:
        """The artifacts that the run has written so far; raises UnknownRunError."""
        infos = await self._ledger.artifacts.list(self.id)
        if not infos:
            await self._ledger.runs.state(self.id)
        return infos

    async def read_artifact(self, name: str) -> bytes:
        """All bytes of an artifact; raises UnknownArtifactError with the names there are."""
        return b"".join([chunk async for chunk in self.stream_artifact(name)])

    async def stream_artifact(self, name: str) -> AsyncIterator[bytes]:
        """Yield an artifact's bytes in pieces; raises UnknownArtifactError."""
        await self._ledger.runs.state(self.id)
        async for chunk in self._ledger.artifacts.read(self.id, name):
            yield chunk

    async def ended(self) -> End:
        """The end of the run, once there is one; raises UnknownRunError."""
        if not self._is_new and (end := await self._ledger.runs.end(self.id)) is not None:
            return end
        self._is_new = False
        woken = asyncio.Event()

        def listener(_: bytes | None) -> None:
            woken.set()

        channel, channels = self._ledger.keys.result_key(self.id), self._ledger.channels
        try:
            await channels.listen(channel, listener)
            # What is published is a hint: others than workers may publish, too.
            while (end := await self._ledger.runs.end(self.id)) is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RECHECK_SECONDS):
                        await woken.wait()
                woken.clear()
            return end
        finally:
            await channels.forget(channel, listener)

    def _waited_in_vain(self, timeout: float | None, what: str) -> ResultTimeoutError:
        return ResultTimeoutError(
            f"waited {timeout} s for {what} of run {self.id}; the run goes on"
        )

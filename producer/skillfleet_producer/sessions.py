"""Handles of sessions: conversations whose runs execute one at a time."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, Unpack

from skillfleet.contracts import TRIMMED_KIND, RunEvent, RunStatus, SessionEvent, SessionStatus
from skillfleet.errors import RunEndedError, UnknownRunError
from skillfleet.ports.workspace import session_workspace_id
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.sessions import session_name
from skillfleet_ledger.stream_entries import event_number
from skillfleet_producer.batches import batches_within
from skillfleet_producer.inputs import Caller, Inputs
from skillfleet_producer.submission import EnqueueOptions, check_text, claims_of
from skillfleet_producer.workspaces import WorkspaceFiles, Workspaces

HandleT = TypeVar("HandleT")
_CURSOR = re.compile(r"([0-9]{1,15}):([0-9]{1,20}(?:-0)?)")
_RECHECK_SECONDS = 5.0
_MOST_SENDS = 5


class AsyncSession(Generic[HandleT]):
    """A session of a fleet, whether it has had a run yet or not.

    `auth` is the caller whom the session belongs to, as for `enqueue`: where the fleet requires
    authentication, each caller has sessions of its own.
    """

    def __init__(
        self,
        ledger: Ledger,
        inputs: Inputs,
        enqueue: Callable[..., Awaitable[HandleT]],
        workspaces: Workspaces,
        session_id: str,
        auth: Caller = None,
    ) -> None:
        check_text("session", session_id)
        self.id = session_id
        self._workspaces = workspaces
        self._ledger = ledger
        self._inputs = inputs
        self._enqueue = enqueue
        self._auth = auth
        self._name = session_name(ledger.settings, session_id, claims_of(auth))

    def __repr__(self) -> str:
        return f"<session {self.id}>"

    @property
    def workspace(self) -> WorkspaceFiles:
        """The files that the session's runs work on, to put in and take out.

        Raises CapabilityUnavailableError where the settings of this process name no workspaces.
        """
        return self._workspaces.files(session_workspace_id(self._name))

    async def enqueue(
        self,
        skill: object,
        args: Mapping[str, Any] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> HandleT:
        """Enqueue a run of the session; arguments and errors as `AsyncFleet.enqueue`."""
        options.setdefault("auth", self._auth)
        options["session"] = self.id
        return await self._enqueue(skill, args, **options)

    async def send(self, message: Any, *, auth: Caller = None) -> str:
        """Put a message into the inbox of the session's current run; returns the run's id.

        Raises RunEndedError when no run of the session is live; other errors as
        `AsyncRunHandle.send`.
        """
        for _ in range(_MOST_SENDS):
            current = await self._ledger.sessions.current(self._name)
            if current is None:
                break
            # It may have ended by now, and another one have taken its place.
            with contextlib.suppress(RunEndedError, UnknownRunError):
                await self._inputs.send(current, message, auth or self._auth)
                return current
        raise RunEndedError(f"session {self.id!r} has no live run that could take the message")

    async def status(self) -> SessionStatus:
        """Return a snapshot of the session; raises UnknownSessionError."""
        return await self._ledger.sessions.status(self._name)

    async def runs(self, limit: int = 50) -> list[RunStatus]:
        """Return the session's runs that are still recorded, the newest first."""
        return await self._ledger.sessions.runs(self._name, limit)

    async def revoke_grants(self) -> None:
        """Revoke all grants of access to the session's files that its runs have made so far.

        Raises UnknownSessionError.
        """
        await self.status()
        await self._ledger.grants.revoke_all(self._name)

    async def events(
        self, after: str | None = None, timeout: float | None = None, *, follow: bool = True
    ) -> AsyncIterator[SessionEvent]:
        """Yield the events of all runs of the session, run after run, after the id `after`.

        Live, and without an end: the conversation may go on. With `follow=False`, until the newest
        event. Runs that have expired are reported as one event of kind `trimmed`, with their
        number as `runs`. Raises ResultTimeoutError when the next event takes longer than `timeout`
        seconds, and ValueError when `after` is not an event id of a session.
        """
        async for batch in self.event_batches(after, timeout, follow=follow):
            for event in batch:
                yield event

    async def event_batches(
        self, after: str | None = None, timeout: float | None = None, *, follow: bool = True
    ) -> AsyncIterator[list[SessionEvent]]:
        """Yield events like `events`, in lists of those that arrived together, which is faster."""
        batches = self._batches(*read_cursor(after), follow=follow)
        what = f"an event of session {self.id!r}"
        async with contextlib.aclosing(batches_within(batches, timeout, what)) as found:
            async for batch in found:
                yield batch

    async def _batches(
        self, number: int, event_id: str | None, *, follow: bool
    ) -> AsyncIterator[list[SessionEvent]]:
        """Yield events from run `number` on, the first of which comes after `event_id`."""
        while True:
            found = await self._ledger.sessions.next_run(self._name, number)
            if found is None:
                if not follow:
                    return
                await self._wait_for_run(number)
                continue
            if found[0] > number:
                yield [_trimmed(found[0], found[0] - number)]
                event_id = None
            number, run_id = found
            try:
                async for events in self._of_run(run_id, event_id, follow=follow):
                    yield [_of_session(event, number, run_id) for event in events]
            except UnknownRunError:
                # It expired while it was read.
                yield [_trimmed(number + 1, 1)]
            number, event_id = number + 1, None

    async def _of_run(
        self, run_id: str, event_id: str | None, *, follow: bool
    ) -> AsyncIterator[list[RunEvent]]:
        streams = self._ledger.streams
        if follow:
            async for batch in streams.batches(run_id, event_id):
                yield batch
            return
        _, newest = await self._ledger.queries.state(run_id)
        if newest <= (event_number(event_id) if event_id else 0):
            return
        async for batch in streams.batches(run_id, event_id):
            yield [event for event in batch if event_number(event.id) <= newest]
            if event_number(batch[-1].id) >= newest:
                return

    async def _wait_for_run(self, number: int) -> None:
        """Return once the session has a run of that number, or soon after."""
        submitted = asyncio.Event()

        def listener(_: bytes | None) -> None:
            submitted.set()

        channel, channels = self._ledger.sessions.channel(self._name), self._ledger.pubsub
        try:
            await channels.listen(channel, listener)
            if await self._ledger.sessions.next_run(self._name, number) is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RECHECK_SECONDS):
                        await submitted.wait()
        finally:
            await channels.forget(channel, listener)


def read_cursor(after: str | None) -> tuple[int, str | None]:
    """Return the number of a run and the id of its last event in a cursor; raises ValueError."""
    if after in (None, ""):
        return 1, None
    found = _CURSOR.fullmatch(after) if isinstance(after, str) else None
    if found is None:
        raise ValueError(f"{after!r:.60} is not an event id of a session: pass one that you read")
    number, event_id = int(found[1]), found[2]
    return number, event_id if event_number(event_id) else None


def _of_session(event: RunEvent, number: int, run_id: str) -> SessionEvent:
    values = event.model_dump() | {"id": f"{number}:{event.id}", "run_id": run_id}
    return SessionEvent.model_construct(**values)


def _trimmed(number: int, missed: int) -> SessionEvent:
    """Return the marker of runs that have expired, before run `number`."""
    return SessionEvent(
        id=f"{number}:0",
        kind=TRIMMED_KIND,
        payload={"runs": missed},
        attempt=0,
        at=datetime.now(UTC),
    )

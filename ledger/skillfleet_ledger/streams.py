"""The events of a run: written in batches under the lease, read live from any event on."""

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import orjson

from skillfleet.contracts import STATE_KIND, TRIMMED_KIND, RunEvent, RunState
from skillfleet.errors import FleetUnavailableError
from skillfleet_ledger.compaction import Compaction, restored
from skillfleet_ledger.redis_client.blocking_reads import BlockingReadPool
from skillfleet_ledger.redis_client.connection import Connection, ReplyError
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.retrying import retry_until
from skillfleet_ledger.runs.queries import unknown_run
from skillfleet_ledger.runs.records import Lease
from skillfleet_ledger.settings import Settings
from skillfleet_ledger.stream_entries import StreamEntry, entry_number, event_number, event_of

_BATCH = 256
BLOCK_MS = 2000
"""The time a reader waits for events before it reads the record again."""

_KEPT = re.compile(rb"([0-9]{1,18}) ([0-9]{1,13}) (?:(\{.*\})|=(.*))")
"""A change of state in a record: attempt, time, and its payload or the worker that started it."""

PackedEvent = tuple[str, bytes, int]
"""Kind, payload (a JSON object) and time of emission (ms since the epoch)."""
StepEvent = tuple[str, bytes, int, str]
"""The same in a run with steps, and the identity of the step that emitted it, or ''."""


class EventStreams:
    """The store of events. Their ids are `<number>-0` with dense numbers from 1."""

    def __init__(
        self,
        connection: Connection,
        blocking_reads: BlockingReadPool,
        settings: Settings,
    ) -> None:
        self._connection = connection
        self._blocking_reads = blocking_reads
        self._settings = settings
        self._keys = settings.keyspace
        self._compaction = Compaction(connection, settings)

    async def append(
        self,
        lease: Lease,
        first: int,
        events: Sequence[PackedEvent] | Sequence[StepEvent],
        timeout: float | None = None,
        emitted: Mapping[str, int] | None = None,
    ) -> tuple[int, str] | None:
        """Append events numbered from `first`; those the stream already has are skipped.

        In a run with steps, `emitted` maps addresses of events to how many are in the stream then;
        None for any other run.

        Returns the number of the stream's last event and the reason of a cancellation (or '').
        The number is less than `first - 1` when the batch was not appended because it would have
        left a gap. None when the lease is lost. Safe to repeat; raises FleetUnavailableError.
        """
        flat: list[Any] = [part for event in events for part in event]
        counts = [] if emitted is None else [len(emitted), *chain.from_iterable(emitted.items())]
        reply = await run_script(
            self._connection,
            "append",
            (self._keys.prefix(lease.run_id),),
            (
                *(lease.run_id, lease.token, lease.attempt, first, self._settings.max_events),
                *(counts or ("",)),
                *flat,
            ),
            timeout,
        )
        if reply[0] == 0:
            return None
        number, *cancelled = reply[1:]
        return int(number), cancelled[0].decode() if cancelled else ""

    async def compact(self, lease: Lease, last: int) -> None:
        """Keep the texts of recorded steps, as far as the event with number `last`.

        Call it before their events are trimmed: after each half of the most events of a stream.
        Does nothing when the lease is lost. Raises FleetUnavailableError.
        """
        await self._compaction.compact(lease, last)

    @property
    def compacted_after(self) -> int:
        """The number of events after which to call `compact` again."""
        return self._settings.max_events // 2

    async def read(self, run_id: str, after: str | None = None) -> AsyncIterator[RunEvent]:
        """Yield the run's events after the id `after` one by one; see `batches`."""
        async for batch in self.batches(run_id, after):
            for event in batch:
                yield event

    async def batches(self, run_id: str, after: str | None = None) -> AsyncIterator[list[RunEvent]]:
        """Yield the run's events after the id `after` (None: from the start), live, in lists.

        Ends after the final event. Where the stream's cap removed events, one event of kind
        `trimmed` takes their place, with their number as `missed`. Raises UnknownRunError,
        ValueError for an invalid id, and FleetUnavailableError when Redis is unreachable for
        longer than the timeout.
        """
        position = event_number(after) if after not in (None, "") else 0
        state, entries = await self._follow(run_id, position)
        while True:
            if not entries:
                entries = await self._next(run_id, position, wait=not state.terminal)
            if entries:
                events = await self._events(run_id, entries, position)
                position = event_number(events[-1].id)
                yield events
                if events[-1].final:
                    return
                entries = []
            elif state.terminal:
                return
            else:
                state, entries = await self._follow(run_id, position)

    async def _follow(self, run_id: str, position: int) -> tuple[RunState, list[StreamEntry]]:
        """Return the run's state, and the events after `position` that its record keeps.

        From now on, a live run writes its events into its stream, where `_next` waits for them.
        """
        keys = (self._keys.prefix(run_id),)
        reply = await run_script(self._connection, "follow", keys, (run_id,))
        if reply is None:
            raise unknown_run(run_id)
        state, _, kept = reply
        entries = kept_events(kept)
        return RunState(state.decode()), [e for e in entries if entry_number(e) > position]

    async def _next(self, run_id: str, position: int, *, wait: bool) -> list[StreamEntry]:
        """Return the stream's entries after `position`; with `wait`, wait a short time for some."""
        key = f"{self._keys.prefix(run_id)}events:{run_id}"
        block = ("BLOCK", BLOCK_MS) if wait else ()
        reply = await self._retried(
            "XREAD", "COUNT", _BATCH, *block, "STREAMS", key, f"{position}-0"
        )
        return reply[0][1] if reply else []

    async def _events(
        self, run_id: str, entries: list[StreamEntry], position: int
    ) -> list[RunEvent]:
        """Return the events of entries, and before them what is left of those after `position`."""
        events = [(entry_number(entry), event_of(entry)) for entry in entries]
        end = events[0][0]
        if end > position + 1:
            key = f"{self._keys.prefix(run_id)}texts:{run_id}"
            stored = await self._retried("ZRANGEBYSCORE", key, f"({position}", "+inf")
            events = restored(stored, position, end) + events
        return _with_markers(events, position)

    async def _retried(self, *command: Any) -> Any:
        """Repeat a failed read until the timeout, counted from the first failure."""
        try:
            return await retry_until(
                self._settings.redis_timeout_seconds,
                lambda: self._blocking_reads.execute(*command),
                on=(ReplyError, OSError),
                check=self._blocking_reads.judge,
            )
        except (ReplyError, OSError) as error:
            if isinstance(error, FleetUnavailableError) or not _may_pass(error):
                raise
            reason = error.reason if isinstance(error, ReplyError) else error
            raise FleetUnavailableError(f"lost the event stream: {reason}") from error


def _may_pass(error: Exception) -> bool:
    return not isinstance(error, ReplyError) or error.passing or error.refusing


def _with_markers(events: Iterable[tuple[int, RunEvent]], position: int) -> list[RunEvent]:
    """Return events after `position`, with a marker for each gap before the number of one."""
    found: list[RunEvent] = []
    for number, event in events:
        if number > position + 1:
            found.append(_trimmed(event, number - 1, number - 1 - position))
        found.append(event)
        position = event_number(event.id)
    return found


def kept_events(kept: bytes) -> list[StreamEntry]:
    """Return the changes of state that a record keeps (common.lua) as entries of a stream."""
    entries = []
    for number, line in enumerate(kept.split(b"\n"), start=1):
        # A producer may write any value into a record.
        if found := _KEPT.fullmatch(line):
            payload = found[3] or _started(found[4])
            fields = [b"k", STATE_KIND.encode(), b"p", payload, b"a", found[1], b"t", found[2]]
            entries.append((b"%d-0" % number, fields))
    return entries


def _started(worker: bytes) -> bytes:
    return orjson.dumps({"state": RunState.RUNNING, "worker": worker.decode(errors="replace")})


def _trimmed(before: RunEvent, number: int, missed: int) -> RunEvent:
    return RunEvent(
        id=f"{number}-0",
        kind=TRIMMED_KIND,
        payload={"missed": missed},
        attempt=before.attempt,
        at=before.at,
    )

"""Event buffer: writes an attempt's events to its stream in order, in batches, under the lease."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from skillfleet.errors import EventsUnwritableError, FleetUnavailableError
from skillfleet.ports.journal import Emission
from skillfleet_engine.loop import bridge
from skillfleet_ledger.redis_client.connection import RETRY_SECONDS
from skillfleet_ledger.runs.records import Lease
from skillfleet_ledger.streams import EventStreams, PackedEvent, StepEvent
from skillfleet_telemetry.metrics import (
    EVENT_BYTES,
    EVENT_FLUSH,
    EVENTS,
    is_measured,
    record,
)

logger = logging.getLogger(__name__)

WINDOW_EVENTS = 1024
WINDOW_BYTES = 256 * 1024
BATCH_EVENTS = 500
BATCH_BYTES = 64 * 1024
_TURNS = 4

T = TypeVar("T")


class _Accepted(NamedTuple):
    kind: str
    payload: bytes
    at: int
    emission: Emission | None


@dataclass(frozen=True)
class EventBufferHooks:
    """Callbacks for what a write may report: the lease is lost; the run was cancelled, and why."""

    lost: Callable[[], None]
    cancelled: Callable[[str], None]


class EventBuffer:
    """Accepts events without a round trip; waits only when the window is full.

    The first event is sent at once; those that arrive before Redis has answered form the next
    batch. `append` may be called on any loop, everything else on the home loop.
    """

    def __init__(
        self,
        streams: EventStreams,
        lease: Lease,
        hooks: EventBufferHooks,
        *,
        flush_seconds: float,
        patience_seconds: float,
    ) -> None:
        self._streams = streams
        self._lease = lease
        self._hooks = hooks
        self._flush_seconds = flush_seconds
        self._patience = patience_seconds
        self._clock_ahead_ms = lease.redis_ms - time.time() * 1000
        self._home = bridge.home_loop()
        self._pending: list[_Accepted] = []
        self._pending_bytes = 0
        self._written = lease.seq
        self._compacted = 0
        self._flusher: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        """Held while a batch, or a script that writes events, is under way."""
        self._steps: set[str] = set()
        self._counts: dict[str, int] = {}
        self._due = 0.0
        """The time at which a handler on the home loop must yield, so that its events are sent."""
        self._error: EventsUnwritableError | None = None
        self._closed = False

        self.flushed_ns: int | None = None
        """The time at which the last batch was in the stream, nanoseconds since the epoch."""

    @property
    def seq(self) -> int:
        """The number of the last event in the stream, as far as this attempt knows."""
        return self._written

    async def append(self, kind: str, payload: bytes, emission: Emission | None = None) -> None:
        """Accept an event; `emission` is its place in a run with a journal.

        Raises EventsUnwritableError when the stream stays unavailable, or the attempt has ended.
        """
        if self._error is not None:
            raise self._error
        if self._closed:
            raise EventsUnwritableError("the attempt has ended: it can write no more events")
        event = _Accepted(kind, payload, int(time.time() * 1000 + self._clock_ahead_ms), emission)
        if asyncio.get_running_loop() is self._home:
            self._accept(event)
            if self._home.time() >= self._due:
                await self._yield_for_flush()
        else:
            self._home.call_soon_threadsafe(self._accept, event)
        if len(self._pending) >= WINDOW_EVENTS or self._pending_bytes >= WINDOW_BYTES:
            await bridge.at_home(self.flush())

    async def flush(self) -> None:
        """Return when everything accepted so far is in the stream, or the lease is gone.

        Raises EventsUnwritableError. On the home loop only.
        """
        while self._pending and self._error is None:
            self._start_flusher()
            if self._flusher is not None:
                await asyncio.shield(self._flusher)
        if self._error is not None and not self._closed:
            raise self._error

    async def exclusive(self, write: Callable[[], Awaitable[T]]) -> T:
        """Run a script that writes events itself, after all that were accepted so far.

        `write` numbers its events from `seq` on, and calls `continue_after` with the number of the
        last one. Once begun, it ends, whatever happens to the caller. Raises EventsUnwritableError,
        and what `write` raises. On the home loop only.
        """
        writing = asyncio.create_task(self._exclusively(write))
        # A caller that is cancelled does not read its error, which the loop would log then.
        writing.add_done_callback(_read_error)
        return await asyncio.shield(writing)

    def uncounted(self, emitted: Mapping[str, int]) -> dict[str, int]:
        """Return those counts of events by address that no batch has written, or will write."""
        return {
            address: count
            for address, count in emitted.items()
            if count > self._counts.get(address, 0)
        }

    def has_step(self, identity: str) -> bool:
        """Return whether this attempt has accepted events of a step."""
        return identity in self._steps

    @property
    def closed(self) -> bool:
        """True once the attempt may write no more events."""
        return self._closed

    def continue_after(self, number: int) -> None:
        """Number the next event after `number`, which is the stream's last event."""
        self._written = number

    def close(self) -> None:
        """Drop pending events and accept no more."""
        self._closed = True
        self._pending.clear()
        self._pending_bytes = 0
        if self._flusher is not None:
            self._flusher.cancel()

    def _accept(self, event: _Accepted) -> None:
        if self._closed:
            return
        self._pending.append(event)
        self._pending_bytes += len(event.payload)
        if event.emission is not None and event.emission.step is not None:
            self._steps.add(event.emission.step)
        self._start_flusher()

    def _start_flusher(self) -> None:
        if self._pending and (self._flusher is None or self._flusher.done()):
            self._flusher = asyncio.create_task(self._run())

    async def _yield_for_flush(self) -> None:
        """Yield until the pump has sent its batch, or has read the last one's reply.

        Otherwise a handler that emits without ever waiting would hold its own events back.
        """
        self._due = self._home.time() + self._flush_seconds
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def _run(self) -> None:
        while self._pending:
            async with self._writing:
                await self._write_next()

    async def _exclusively(self, write: Callable[[], Awaitable[T]]) -> T:
        async with self._writing:
            while self._pending and self._error is None:
                await self._write_next()
            if self._error is not None:
                raise self._error
            return await write()

    async def _write_next(self) -> None:
        """Write the next batch of those that are pending."""
        self._due = self._home.time() + self._flush_seconds
        batch = self._next_batch()
        if not batch:
            return
        began_ns = time.time_ns()
        answer = await self._write(batch)
        if answer is None:
            self._pending.clear()
            self._pending_bytes = 0
            return
        last, cancelled = answer
        went_back = last < self._written
        self._written = last
        if went_back:
            # Redis came back with less than it had: this batch was not taken.
            return
        del self._pending[: len(batch)]
        size = sum(len(event.payload) for event in batch)
        self._pending_bytes -= size
        self._flushed(len(batch), size, began_ns)
        if cancelled:
            self._hooks.cancelled(cancelled)
        if self._steps and last - self._compacted >= self._streams.compacted_after:
            await self._compact(last)

    async def _compact(self, last: int) -> None:
        """Keep the texts of recorded steps before their events are trimmed."""
        try:
            await self._streams.compact(self._lease, last)
        except FleetUnavailableError as error:
            run_id = self._lease.run_id
            logger.warning("run %s: the texts of its steps are kept later: %s", run_id, error)
        else:
            self._compacted = last

    def _flushed(self, events: int, size: int, began_ns: int) -> None:
        self.flushed_ns = time.time_ns()
        if is_measured():
            record(EVENTS, events)
            record(EVENT_BYTES, size)
            record(EVENT_FLUSH, (self.flushed_ns - began_ns) / 1e9)

    def _next_batch(self) -> list[_Accepted]:
        size = 0
        for count, event in enumerate(self._pending[:BATCH_EVENTS], start=1):
            size += len(event.payload)
            if size >= BATCH_BYTES:
                return self._pending[:count]
        return self._pending[:BATCH_EVENTS]

    async def _write(self, batch: list[_Accepted]) -> tuple[int, str] | None:
        """Write a batch, with retries; None when the lease is lost or the time is up."""
        reason: Exception | None = None
        events, emitted = _packed(batch)
        self._counts.update(emitted or {})
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    try:
                        answer = await self._streams.append(
                            self._lease, self._written + 1, events, emitted=emitted
                        )
                    except FleetUnavailableError as error:
                        # A connection that is refused fails at once: the loop must turn.
                        reason = error
                        await asyncio.sleep(RETRY_SECONDS)
                        continue
                    if answer is None:
                        self._hooks.lost()
                    return answer
        except TimeoutError:
            why = reason or "Redis did not answer"
            message = f"events could not be written for {self._patience:g} s: {why}"
        except Exception as error:
            logger.exception("run %s: its events cannot be written", self._lease.run_id)
            reason, message = error, f"events cannot be written: {error}"
        self._error = EventsUnwritableError(message)
        self._error.__cause__ = reason
        return None


def _packed(
    batch: Sequence[_Accepted],
) -> tuple[Sequence[PackedEvent] | Sequence[StepEvent], dict[str, int] | None]:
    """Return a batch as a stream takes it, and the counts of its events by address."""
    emissions = [event.emission for event in batch if event.emission is not None]
    if not emissions:
        return [(event.kind, event.payload, event.at) for event in batch], None
    emitted = {
        emission.address: emission.ordinal + 1
        for emission in emissions
        if emission.address is not None
    }
    return [(event.kind, event.payload, event.at, _step_of(event)) for event in batch], emitted


def _step_of(event: _Accepted) -> str:
    return (event.emission.step if event.emission is not None else None) or ""


def _read_error(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()

"""One endurance round: a run, the killing of its workers, and what must hold at the end."""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from skillfleet import joined_text
from skillfleet.contracts import RunEvent, RunStatus
from skillfleet.errors import FleetUnavailableError
from skillfleet_producer import AsyncFleet, AsyncRunHandle, Settings
from tests.endurance.skills import prompt_of
from tests.support.fleet import FleetWorker
from tests.support.model_server import REPLY_BYTES, ModelServer, reply_to
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until, wait_until_async

LEASE_SECONDS = 2.0
NEXT_CALL_SECONDS = 1.0
MOST_JOURNAL_OVER_RESULTS = 1.5
_PAUSE_SECONDS = 0.02
_STALLED_SECONDS = 60.0


@dataclass(frozen=True)
class Endurance:
    """What a round does: `steps` calls in `branches`, `kills` of the worker, by `seed`."""

    seed: int
    steps: int
    kills: int
    branches: int = 1

    def killed_at(self) -> list[int]:
        """Return the numbers of requests after which the executing worker is killed, sorted."""
        return sorted(random.Random(self.seed).sample(range(1, self.steps), self.kills))


@dataclass
class Round:
    """What was seen in a round."""

    plan: Endurance
    status: RunStatus | None = None
    result: object = None
    cut: list[RunEvent] = field(default_factory=list)
    """The events of the reader that is cut at every kill and resumes."""
    late: list[RunEvent] = field(default_factory=list)
    """The events of a reader that comes after the end."""
    journal_bytes: int = 0
    requests: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def summary(self) -> str:
        """Return what happened, in one line."""
        calls = sum(map(len, self.requests.values()))
        over = self.journal_bytes / (self.plan.steps * REPLY_BYTES)
        return (
            f"{self.plan}: {calls} requests, journal {over:.3f} x results, "
            f"next call after {max(self._resumptions(), default=0):.2f} s at most, "
            f"{self.seconds:.0f} s"
        )

    def problems(self) -> Iterator[str]:
        """Yield the promises that were broken."""
        plan = self.plan
        if self.result != plan.steps * REPLY_BYTES:
            yield f"the run returned {self.result!r}"
        for step in range(plan.steps):
            if not self.requests.get(prompt_of(step)):
                yield f"step {step} was never executed"
        repeated = sum(len(times) - 1 for times in self.requests.values())
        if repeated > plan.kills * plan.branches:
            yield f"{repeated} calls were repeated with {plan.kills} kills"
        if self.journal_bytes > MOST_JOURNAL_OVER_RESULTS * plan.steps * REPLY_BYTES:
            yield f"the journal has {self.journal_bytes} bytes"
        for seconds in self._resumptions():
            if seconds > NEXT_CALL_SECONDS:
                yield f"the next call began {seconds:.2f} s after the claim"
        for name, events in (("cut", self.cut), ("late", self.late)):
            if (found := joined_text(events)) is not None and not self._is_whole(found):
                yield f"the {name} reader has {len(found)} characters that are not the text once"

    def _is_whole(self, text: str) -> bool:
        """Return whether a text has each reply once; with one branch, in order."""
        replies = [reply_to(prompt_of(step)) for step in range(self.plan.steps)]
        if self.plan.branches == 1:
            return text == "".join(replies)
        return sorted(text) == sorted("".join(replies))

    def _resumptions(self) -> Iterator[float]:
        """Yield the seconds from each further claim to the next call."""
        times = sorted(moment for found in self.requests.values() for moment in found)
        for attempt in self.status.attempts[1:] if self.status else ():
            claimed = attempt.started_at.timestamp()
            ended = (attempt.ended_at or datetime.now(UTC)).timestamp()
            after = next((moment for moment in times if moment >= claimed), None)
            # An attempt may be killed before its first call.
            if after is not None and after <= ended:
                yield after - claimed


async def run_round(plan: Endurance) -> Round:
    """Play a round on servers of its own; everything that it starts has ended afterwards."""
    seen = Round(plan)
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        model = stack.enter_context(ModelServer(pause=_PAUSE_SECONDS))
        server = stack.enter_context(running_server())
        workers = [_worker(server) for _ in range(2)]
        for worker in workers:
            stack.callback(worker.close)
            worker.launch()
        for worker in workers:
            await asyncio.to_thread(wait_until, worker.serves, 60, "a worker")
        # With branches, kills may follow each other before an attempt has recorded anything.
        settings = Settings.load(redis_url=server.url, max_deliveries=plan.kills + 1)
        fleet = await stack.enter_async_context(AsyncFleet(settings=settings))
        args = {"url": model.url, "steps": plan.steps, "branches": plan.branches}
        run = await fleet.enqueue("endurance.converse", args)
        cuts = asyncio.Event()
        reader = asyncio.create_task(_read(run, seen.cut, cuts))
        for count in plan.killed_at():
            await _until_calls(model, count)
            await _kill(run, workers)
            cuts.set()
        seen.result = await run.result(timeout=_STALLED_SECONDS + plan.steps)
        await reader
        seen.status = await run.status()
        seen.late = [event async for event in run.events()]
        seen.journal_bytes = _journal_bytes(server, run.id)
        seen.requests = dict(model.requests)
    seen.seconds = time.monotonic() - began
    return seen


def _worker(server: ValkeyServer) -> FleetWorker:
    return FleetWorker(
        server,
        "tests.endurance.skills",
        lease_seconds=LEASE_SECONDS,
        reap_seconds=0.3,
    )


async def _until_calls(model: ModelServer, count: int) -> None:
    """Wait until the model was called so often, repeated calls included."""

    async def called() -> bool:
        return len(model.requests) >= count

    await wait_until_async(called, _STALLED_SECONDS, f"call {count}")


async def _kill(run: AsyncRunHandle, workers: list[FleetWorker]) -> None:
    """Kill the worker that executes the run, and start it again."""

    async def holder() -> FleetWorker | None:
        status = await run.status()
        name = status.worker or ""
        return next((w for w in workers if f":{w.pid}-" in name), None)

    # The other worker may still have to notice that the lease is over.
    victim = await wait_until_async(holder, _STALLED_SECONDS, "a worker that holds the run")
    if victim is not None:
        victim.kill()
        victim.launch()


async def _read(run: AsyncRunHandle, events: list[RunEvent], cut: asyncio.Event) -> None:
    """Read the run's events to the end; at each cut with a new connection, after the last event."""
    while not (events and events[-1].final):
        after = events[-1].id if events else None
        with suppress(FleetUnavailableError):
            async for event in run.events(after=after):
                events.append(event)
                if cut.is_set():
                    cut.clear()
                    break


def _journal_bytes(server: ValkeyServer, run_id: str) -> int:
    """Return the memory of all keys of a run's journal."""
    with server.client() as client:
        keys = [
            *client.scan_iter(f"*journal:{run_id}"),
            *client.scan_iter(f"*emitted:{run_id}"),
            *client.scan_iter(f"*blob:{run_id}:*"),
        ]
        return sum(client.memory_usage(key, samples=0) or 0 for key in keys)

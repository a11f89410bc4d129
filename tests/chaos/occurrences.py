"""Schedules: each occurrence leads to one run, and not before its time."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from skillfleet.contracts import Schedule
from skillfleet.errors import FleetUnavailableError
from skillfleet_producer import AsyncFleet
from tests.chaos.evidence import Run

_LOOK_SECONDS = 0.05
_EARLY_MS = 1
"""A time in milliseconds is cut off."""


@dataclass(frozen=True)
class Pulse:
    """A schedule of the rounds; each run takes `seconds`."""

    name: str
    every: float
    seconds: float
    overlap: str


PULSES = (Pulse("pulse", 1.5, 0.1, "allow"), Pulse("alone", 1.5, 2.0, "skip"))


@dataclass(frozen=True)
class Kept:
    """What is known of a schedule that was removed; times in ms.

    It was first due at `first`, and had enqueued all that was due before `handled`; by `removed` it
    was gone.
    """

    pulse: Pulse
    first: float
    handled: float
    removed: float

    def due(self, until: float) -> list[float]:
        """Return when it was due before a time."""
        every = self.pulse.every * 1000
        return [self.first + number * every for number in range(ceil((until - self.first) / every))]


async def begin(fleet: AsyncFleet, journal: str) -> dict[Pulse, float]:
    """Make the schedules, before anything breaks; return when each is due first (ms)."""
    first = {}
    for pulse in PULSES:
        args = {"journal": journal, "seconds": pulse.seconds}
        made = await fleet.schedule(
            pulse.name, f"durable.{pulse.name}", args, every=pulse.every, overlap=pulse.overlap
        )
        first[pulse] = _next_ms(made)
    return first


async def end(fleet: AsyncFleet, first: Mapping[Pulse, float]) -> list[Kept]:
    """Remove each schedule when it has just enqueued what was due."""
    return [await _remove(fleet, pulse, began) for pulse, began in first.items()]


async def _remove(fleet: AsyncFleet, pulse: Pulse, first: float) -> Kept:
    handled = first
    while True:
        with suppress(FleetUnavailableError):
            listed = {schedule.name: schedule for schedule in await fleet.schedules()}
            now = await fleet.ledger.directory.now_ms()
            if pulse.name not in listed:
                return Kept(pulse, first, handled, now)
            handled = _next_ms(listed[pulse.name])
            if handled > now + pulse.every * 500:
                await fleet.unschedule(pulse.name)
                continue
        await asyncio.sleep(_LOOK_SECONDS)


def _next_ms(schedule: Schedule) -> float:
    assert schedule.next_at is not None
    return schedule.next_at.timestamp() * 1000


def occurred(runs: Mapping[str, Run], kept: Sequence[Kept]) -> Iterator[str]:
    """Check the runs of all schedules of a round."""
    for one in kept:
        of_it = [run for run in runs.values() if run.skill == one.pulse.name]
        ordered = sorted(of_it, key=lambda run: int(run.record["created"]))
        for problem in _occurred(ordered, one):
            yield f"schedule {one.pulse.name}: {problem}"


def _occurred(runs: Sequence[Run], kept: Kept) -> Iterator[str]:
    due = kept.due(kept.removed)
    least = len(kept.due(kept.handled)) if kept.pulse.overlap == "allow" else min(1, len(due))
    if not least <= len(runs) <= len(due):
        yield f"was due {len(due)} times and led to {len(runs)} runs"
    created = [int(run.record["created"]) for run in runs]
    early = sum(at < moment - _EARLY_MS for at, moment in zip(created, due, strict=False))
    if early:
        yield f"{early} runs were enqueued before they were due"
    for before, after in pairwise(runs if kept.pulse.overlap == "skip" else ()):
        if int(before.record.get("finished", "9" * 15)) > int(after.record["created"]):
            yield f"run {after.id} was enqueued before run {before.id} had ended"

"""Schedules as producers make and change them, and the runs that they start."""

import re
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict

import orjson
from pydantic import BaseModel

from skillfleet.contracts import MOST_CATCH_UP, Budget, Overlap, Schedule, from_millis
from skillfleet.errors import InvalidArgumentsError, UnauthorizedError, UnknownScheduleError
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Submission
from skillfleet_ledger.runs.schedules import StoredSchedule
from skillfleet_producer.enqueuing import Enqueuer
from skillfleet_producer.submission import Options, build_submission, claims_of
from skillfleet_producer.timing import Timing

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MOST_TIMES = 1000
_RUN_OPTIONS: Final = ("timeout", "priority", "queue", "tags", "session")
"""Options of a run that are stored as they are."""


class ScheduleOptions(TypedDict, total=False):
    """The keyword arguments of `schedule`: its times, and options of its runs."""

    cron: str | None
    every: float | timedelta | None
    timezone: str
    overlap: Overlap | str
    catch_up: int
    auth: BaseModel | Mapping[str, Any] | None
    timeout: float | None
    priority: int | None
    queue: str | None
    budget: Budget | None
    tags: Mapping[str, str] | None
    session: str | None


class Scheduling:
    """Makes, shows and changes schedules, and prepares their runs. Errors as `AsyncFleet`."""

    def __init__(self, ledger: Ledger, enqueuer: Enqueuer) -> None:
        self._ledger = ledger
        self._enqueuer = enqueuer

    async def put(
        self, name: str, skill: object, args: Mapping[str, Any], given: ScheduleOptions
    ) -> Schedule:
        """Make a schedule, or replace the one of that name."""
        _check_name(name)
        more: dict[str, Any] = dict(given)
        if unknown := more.keys() - ScheduleOptions.__annotations__.keys():
            raise TypeError(f"schedule takes no argument {min(unknown)!r}")
        now_ms = await self._ledger.directory.now_ms()
        timing = _timing(more, now_ms)
        overlap = _overlap(more.pop("overlap", Overlap.SKIP))
        catch_up = _catch_up(more.pop("catch_up", 0))
        options = Options(**more)
        claims = claims_of(options.auth)
        call = await self._enqueuer.check(skill, args)
        # What cannot be enqueued is refused here.
        build_submission(self._ledger.settings, call, options, now_ms, claims=claims)
        task = f"{call.agent}.{call.skill}"
        stored = StoredSchedule(
            name=name,
            skill=task,
            times={"cron": timing.cron, "every": timing.every, "timezone": timing.timezone},
            args=call.args,
            options=_stored_options(options, claims),
            overlap=overlap,
            catch_up=catch_up,
            queue=options.queue or call.queue or self._ledger.settings.default_queue,
            generation=secrets.token_hex(8),
            anchor_ms=now_ms,
            next_ms=timing.after(now_ms),
            delegation=self._enqueuer.signing.delegation(
                name, task, orjson.loads(call.args), claims
            ),
        )
        await self._ledger.schedules.put(stored)
        return await self.get(name)

    async def get(self, name: str) -> Schedule:
        """Return a schedule; raises UnknownScheduleError."""
        return shown(await self._stored(name))

    async def all(self) -> list[Schedule]:
        """Return all schedules by name."""
        found = []
        for shard in range(self._ledger.settings.shards):
            for name in await self._ledger.schedules.names(shard):
                try:
                    found.append(await self.get(name))
                except UnknownScheduleError:
                    # It has been removed since, or someone else has written it.
                    continue
        return sorted(found, key=lambda schedule: schedule.name)

    async def remove(self, name: str) -> bool:
        """Remove a schedule; False when there was none."""
        return _is_name(name) and await self._ledger.schedules.remove(name)

    async def pause(self, name: str) -> Schedule:
        """Pause a schedule; what is due meanwhile is not made up for."""
        stored = await self._stored(name)
        await self._ledger.schedules.change(
            stored, None, {"paused": "1", "waiting": ""}, is_any=True
        )
        return await self.get(name)

    async def resume(self, name: str) -> Schedule:
        """Let a paused schedule go on with its next occurrence."""
        stored = await self._stored(name)
        if stored.paused:
            following = timing_of(stored).after(await self._ledger.directory.now_ms())
            await self._ledger.schedules.change(stored, following, {"paused": ""}, is_any=True)
        return await self.get(name)

    async def run_now(self, name: str) -> str:
        """Enqueue a run of a schedule at once, whatever its times; returns the run's id."""
        stored = await self._stored(name)
        if self._ledger.settings.auth == "required":
            raise UnauthorizedError(
                "only workers sign the runs of a schedule (SKILLFLEET_AUTH=required): enqueue"
                f" {stored.skill} as yourself"
            )
        new = await self.prepare(stored, None)
        await self._ledger.schedules.note_run(stored, new.id, is_any=True)
        await self._enqueuer.submit(new)
        return new.id

    async def times(self, name: str, count: int) -> list[datetime]:
        """Return the next `count` times at which a schedule is due, if it is not paused."""
        if not 1 <= count <= _MOST_TIMES:
            raise InvalidArgumentsError(f"count must be 1 to {_MOST_TIMES}, not {count!r}")
        timing = timing_of(await self._stored(name))
        found: list[datetime] = []
        moment: int | None = await self._ledger.directory.now_ms()
        while moment is not None and len(found) < count:
            moment = timing.after(moment)
            found += [from_millis(moment)] if moment is not None else []
        return found

    async def prepare(self, stored: StoredSchedule, due_ms: int | None) -> Submission:
        """Return the run of an occurrence, which is not written yet; without one, a run for now.

        The same occurrence is the same run, whichever process starts it.
        """
        key = f"schedule {stored.name} {stored.generation} {due_ms}" if due_ms is not None else None
        options = dict(stored.options)
        if (budget := options.pop("budget", None)) is not None:
            options["budget"] = Budget.model_validate(budget)
        return await self._enqueuer.prepare_due(
            stored.skill,
            orjson.loads(stored.args),
            Options(idempotency_key=key, **options),
            stored.delegation,
        )

    async def submit(self, new: Submission) -> bool:
        """Write a prepared run and publish it; False when it existed before."""
        return await self._enqueuer.submit(new)

    async def _stored(self, name: str) -> StoredSchedule:
        if not _is_name(name):
            raise UnknownScheduleError(f"there is no schedule {name!r:.200}")
        return await self._ledger.schedules.get(name)


def timing_of(stored: StoredSchedule) -> Timing:
    """Return the times of a stored schedule; raises InvalidArgumentsError or TypeError."""
    return Timing(**stored.times, anchor_ms=stored.anchor_ms)


def shown(stored: StoredSchedule) -> Schedule:
    """Return a schedule as callers see it, without the claims of its creator."""
    return Schedule(
        name=stored.name,
        skill=stored.skill,
        args=orjson.loads(stored.args),
        **stored.times,
        overlap=Overlap(stored.overlap),
        catch_up=stored.catch_up,
        queue=stored.queue,
        tags=stored.options.get("tags", {}),
        session=stored.options.get("session"),
        paused=stored.paused,
        created_at=from_millis(stored.created_ms),
        next_at=from_millis(stored.next_ms) if stored.next_ms is not None else None,
        last_at=from_millis(stored.last_ms) if stored.last_ms is not None else None,
        last_run=stored.last,
        waiting=len(stored.waiting),
        problem=stored.problem or None,
    )


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _check_name(name: Any) -> None:
    if not _is_name(name):
        raise InvalidArgumentsError(
            f"name: {name!r:.80} must have 1 to 128 letters, digits, '_', '.' and '-', and begin"
            " with a letter or a digit"
        )


def _timing(more: dict[str, Any], now_ms: int) -> Timing:
    every = more.pop("every", None)
    if isinstance(every, timedelta):
        every = every.total_seconds()
    zone = more.pop("timezone", "UTC")
    return Timing(more.pop("cron", None), every, zone, now_ms)


def _overlap(given: Any) -> Overlap:
    try:
        return Overlap(given)
    except ValueError:
        known = ", ".join(repr(each.value) for each in Overlap)
        raise InvalidArgumentsError(f"overlap must be one of {known}, not {given!r:.80}") from None


def _catch_up(given: Any) -> int:
    is_number = isinstance(given, int) and not isinstance(given, bool)
    if not is_number or not 0 <= given <= MOST_CATCH_UP:
        raise InvalidArgumentsError(f"catch_up must be 0 to {MOST_CATCH_UP}, not {given!r:.80}")
    return int(given)


def _stored_options(options: Options, claims: dict[str, Any] | None) -> dict[str, Any]:
    chosen = {name: getattr(options, name) for name in _RUN_OPTIONS}
    chosen["auth"] = claims
    if options.budget is not None:
        chosen["budget"] = options.budget.model_dump(exclude_none=True)
    return {name: value for name, value in chosen.items() if value is not None}

"""Schedules as the ledger stores them, on the shard of their name."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from skillfleet.errors import LimitExceededError, UnknownScheduleError
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.runs.base import RunOperations

_LATEST_MS = 253_000_000_000_000
"""In the year 9987, short of the end of Python's calendar."""
_NEW, _TOO_MANY = 2, -2
"""Replies of the script that writes schedules."""
_NO_PUT = ("", "", "", "")


class StoredSchedule(NamedTuple):
    """A schedule as its hash has it. Times are milliseconds by Redis time.

    `times` is the JSON of when it is due, `args` that of the skill's arguments, `options` that of
    the other options of its runs; `anchor_ms` is the time from which intervals count.
    """

    name: str
    skill: str
    times: dict[str, Any]
    args: bytes
    options: dict[str, Any]
    overlap: str
    catch_up: int
    queue: str
    generation: str = ""
    anchor_ms: int = 0
    created_ms: int = 0
    next_ms: int | None = None
    paused: bool = False
    last: str | None = None
    last_ms: int | None = None
    waiting: tuple[int, ...] = ()
    """Occurrences that wait for the end of the last run."""
    problem: str = ""
    delegation: str = ""
    """The token of its creator, where the fleet requires authentication."""


class Schedules(RunOperations):
    """Reads and changes schedules; for producers, and for the reaper, which starts their runs."""

    async def put(self, new: StoredSchedule) -> bool:
        """Write a schedule, or replace the one of its name; True for a new one.

        While its times stay the same, a replaced one keeps what only the ledger has of it: when it
        is due, whether it is paused, its last run. Raises LimitExceededError.
        """
        most, prefix = self._settings.max_schedules, self._prefix(new.name)
        others = [
            await self._connection.execute("ZCARD", f"{each}schedules")
            for each in self._keys.prefixes()
            if each != prefix
        ]
        fields = {
            "skill": new.skill,
            "args": new.args,
            "options": _json(new.options),
            "overlap": new.overlap,
            "catch_up": new.catch_up,
            "delegation": new.delegation,
            "problem": "",
        }
        reply = await self._write(
            *(new.name, "put", _or_empty(new.next_ms), new.queue, max(0, most - sum(others))),
            *(_json(new.times), new.anchor_ms, new.generation),
            *(part for pair in fields.items() for part in pair),
        )
        if reply == _TOO_MANY:
            raise LimitExceededError(
                f"the fleet has {most} schedules already (SKILLFLEET_MAX_SCHEDULES)"
            )
        return reply == _NEW

    async def change(
        self,
        schedule: StoredSchedule,
        next_ms: int | None,
        fields: Mapping[str, Any],
        *,
        queue: str = "",
        is_any: bool = False,
    ) -> bool:
        """Set when a schedule is due next, and further fields of its hash.

        False when another process changed that time first, unless that does not matter (`is_any`).
        Raises UnknownScheduleError.
        """
        expected = "*" if is_any else _or_empty(schedule.next_ms)
        flat = [part for pair in fields.items() for part in pair]
        reply = await self._write(
            schedule.name, expected, _or_empty(next_ms), queue, *_NO_PUT, *flat
        )
        if reply < 0:
            raise unknown_schedule(schedule.name)
        return bool(reply)

    async def note_run(self, schedule: StoredSchedule, run_id: str, *, is_any: bool) -> bool:
        """Note which run is the last one; False as `change`, and when the schedule is gone."""
        expected = "*" if is_any else _or_empty(schedule.next_ms)
        reply = await self._write(schedule.name, expected, "=", "", *_NO_PUT, "last", run_id)
        return reply == 1

    async def get(self, name: str) -> StoredSchedule:
        """Return a schedule; raises UnknownScheduleError, also for one that is unreadable."""
        flat = await self._connection.execute("HGETALL", f"{self._prefix(name)}schedule:{name}")
        found = _stored(name, dict(zip(flat[::2], flat[1::2], strict=True)))
        if found is None:
            raise unknown_schedule(name)
        return found

    async def remove(self, name: str) -> bool:
        """Remove a schedule; False when there is none."""
        return bool(await run_script(self._connection, "remove_schedule", *self._call(name)))

    async def names(self, shard: int) -> list[str]:
        """Return the names of all schedules of a shard, by when they are due."""
        key = f"{self._keys.shard_prefix(shard)}schedules"
        names = await self._connection.execute("ZRANGE", key, 0, -1)
        return [name.decode(errors="replace") for name in names]

    async def due(self, shard: int, limit: int) -> tuple[int, list[str]]:
        """Return Redis time and the names of schedules of a shard that are due by then."""
        prefix = self._keys.shard_prefix(shard)
        now, names = await run_script(self._connection, "due_schedules", (prefix,), (limit,))
        return int(now), [name.decode(errors="replace") for name in names]

    async def set_aside(self, name: str, until_ms: int) -> None:
        """Leave a schedule alone until a time: it is unreadable."""
        key = f"{self._prefix(name)}schedules"
        await self._connection.execute("ZADD", key, "XX", until_ms, name)

    def _prefix(self, name: str) -> str:
        return self._keys.prefix(name)

    async def _write(self, name: str, *args: Any) -> int:
        return int(await run_script(self._connection, "write_schedule", *self._call(name, *args)))

    def _call(self, name: str, *args: Any) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        return (self._prefix(name),), (name, *args)


def unknown_schedule(name: str) -> UnknownScheduleError:
    """Return the error for a name that no schedule has."""
    return UnknownScheduleError(f"there is no schedule {name!r:.200}")


def _stored(name: str, fields: dict[bytes, bytes]) -> StoredSchedule | None:
    """Return the schedule in a hash; None for one that is unreadable.

    Producers may write any value there.
    """
    try:
        text = {key.decode(): value.decode() for key, value in fields.items()}
        return StoredSchedule(
            name=name,
            skill=text["skill"],
            times=_object(text["times"]),
            args=fields[b"args"],
            options=_object(text["options"]),
            overlap=text["overlap"],
            catch_up=int(text["catch_up"]),
            queue=text["queue"],
            generation=text["generation"],
            anchor_ms=_time(text["anchor"]) or 0,
            created_ms=_time(text["created"]) or 0,
            next_ms=_time(text["next"]),
            paused=text.get("paused") == "1",
            last=text.get("last"),
            last_ms=_time(text.get("last_due", "")),
            waiting=_times(text["waiting"]),
            problem=text.get("problem", ""),
            delegation=text.get("delegation", ""),
        )
    except (KeyError, ValueError):
        return None


def _time(digits: str) -> int | None:
    moment = int(digits) if digits else None
    if moment is not None and not 0 <= moment <= _LATEST_MS:
        raise ValueError(digits)
    return moment


def _times(listed: str) -> tuple[int, ...]:
    return tuple(moment for part in listed.split(",") if (moment := _time(part)) is not None)


def _object(json: str) -> dict[str, Any]:
    value = orjson.loads(json)
    if not isinstance(value, dict):
        raise ValueError(json)  # noqa: TRY004 - as any other unreadable value
    return value


def _or_empty(moment: int | None) -> str:
    return "" if moment is None else str(moment)


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)

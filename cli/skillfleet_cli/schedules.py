"""Display of schedules, and changes to them."""

from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from skillfleet.contracts import Schedule
from skillfleet.errors import UnknownScheduleError
from skillfleet_cli.output import Listing, clock, console, duration, print_json, styled
from skillfleet_producer import AsyncFleet


async def list_schedules(fleet: AsyncFleet, *, as_json: bool) -> None:
    """Print all schedules, by name."""
    found = await fleet.schedules()
    if as_json:
        print_json(found)
        return
    if not found:
        console(stderr=True).print("no schedules")
        return
    listed = Listing("NAME", "SKILL", "TIMES", "NEXT", "LAST", "NOTE")
    for each in found:
        listed.add(
            styled((each.name, "bold")),
            each.skill,
            _times(each),
            "paused" if each.paused else clock(each.next_at) or "never",
            clock(each.last_at),
            _note(each),
        )
    listed.print()


async def add_schedule(
    fleet: AsyncFleet,
    name: str,
    skill: str,
    args: dict[str, Any],
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Make or replace a schedule, and print when it is due."""
    _report(await fleet.schedule(name, skill, args, **options), as_json=as_json)


async def remove_schedule(fleet: AsyncFleet, name: str, *, as_json: bool) -> None:
    """Remove a schedule; raises UnknownScheduleError."""
    if not await fleet.unschedule(name):
        raise UnknownScheduleError(f"there is no schedule {name!r:.200}")
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        console().print(f"{name} removed")


async def pause_schedule(fleet: AsyncFleet, name: str, *, as_json: bool) -> None:
    """Pause a schedule."""
    _report(await fleet.pause_schedule(name), as_json=as_json)


async def resume_schedule(fleet: AsyncFleet, name: str, *, as_json: bool) -> None:
    """Let a paused schedule go on."""
    _report(await fleet.resume_schedule(name), as_json=as_json)


async def run_schedule(fleet: AsyncFleet, name: str, *, as_json: bool) -> None:
    """Enqueue a run of a schedule now, and print its id."""
    run = await fleet.run_schedule(name)
    if as_json:
        print_json({"id": run.id, "schedule": name})
    else:
        console().print(run.id)


async def next_times(fleet: AsyncFleet, name: str, count: int, *, as_json: bool) -> None:
    """Print the next times of a schedule, in its time zone and in the local one."""
    times = await fleet.schedule_times(name, count)
    if as_json:
        utc = [each.isoformat().replace("+00:00", "Z") for each in times]
        print_json({"name": name, "times": utc})
        return
    zone = next(each.timezone for each in await fleet.schedules() if each.name == name)
    listed = Listing(zone.upper(), "LOCAL")
    for each in times:
        listed.add(each.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S"), clock(each))
    listed.print()


def _report(schedule: Schedule, *, as_json: bool) -> None:
    if as_json:
        print_json(schedule)
        return
    when = f"is next due {clock(schedule.next_at)}" if schedule.next_at else "is not due any more"
    console().print(f"{schedule.name} " + ("is paused" if schedule.paused else when))


def _times(schedule: Schedule) -> str:
    if schedule.every is not None:
        return f"every {duration(timedelta(seconds=schedule.every))}"
    zone = "" if schedule.timezone == "UTC" else f" {schedule.timezone}"
    return f"{schedule.cron}{zone}"


def _note(schedule: Schedule) -> str:
    if schedule.problem is not None:
        return schedule.problem
    return f"{schedule.waiting} due wait for the last run" if schedule.waiting else ""

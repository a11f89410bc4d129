"""The commands `schedules list`, `add`, `remove`, `pause`, `resume`, `run` and `next`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from typing import Annotated

import typer

from skillfleet_cli.options import (
    ArgumentPairs,
    Json,
    JsonArguments,
    Scopes,
    SkillName,
    Subject,
    TagPairs,
)

_Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the schedule.", show_default=False)
]


_Cron = Annotated[
    str | None,
    typer.Option(
        metavar="EXPRESSION",
        help="Minute, hour, day of the month, month, day of the week.",
        show_default=False,
    ),
]
_Every = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Interval, in place of --cron.", show_default=False),
]
_Zone = Annotated[str, typer.Option(metavar="ZONE", help="Time zone of --cron, like Asia/Tokyo.")]
_Overlap = Annotated[
    str,
    typer.Option(
        metavar="HOW",
        help="If the last run has not ended: skip, queue (after it) or allow (beside it).",
    ),
]
_CatchUp = Annotated[
    int, typer.Option(metavar="COUNT", help="Missed runs to make up for, after an outage.")
]
_Timeout = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Deadline of each run.", show_default=False),
]
_Priority = Annotated[
    int | None, typer.Option(min=0, max=9, help="0 is the most urgent.", show_default="0")
]
_Queue = Annotated[
    str | None, typer.Option(metavar="NAME", help="Queue to use instead of the agent's own.")
]

_Session = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Session of the runs.", show_default=False),
]


def list_(*, as_json: Json = False) -> None:
    """List all schedules, by name.

    Example:
      $ skillfleet schedules list
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.schedules import list_schedules

    with_fleet(lambda fleet: list_schedules(fleet, as_json=as_json))


def add(  # noqa: PLR0913 - one parameter for each option
    name: _Name,
    skill: SkillName,
    json: JsonArguments = None,
    *,
    arg: ArgumentPairs = None,
    cron: _Cron = None,
    every: _Every = None,
    timezone: _Zone = "UTC",
    overlap: _Overlap = "skip",
    catch_up: _CatchUp = 0,
    timeout: _Timeout = None,
    priority: _Priority = None,
    queue: _Queue = None,
    tag: TagPairs = None,
    session: _Session = None,
    subject: Subject = None,
    scope: Scopes = None,
    as_json: Json = False,
) -> None:
    """Make a schedule: the fleet enqueues the skill at certain times.

    A schedule of the same name is replaced.

    Examples:
      $ skillfleet schedules add nightly librarian.survey --arg folder=. --cron "0 2 * * *"
      $ skillfleet schedules add pulse fleet.echo '{"text": "hello"}' --every 300
    """
    from skillfleet_cli.arguments import parse_arguments
    from skillfleet_cli.conditions import parse_tags
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.schedules import add_schedule
    from skillfleet_cli.waits import caller_of

    args = parse_arguments(json, arg or [])
    options = {
        "cron": cron,
        "every": every,
        "timezone": timezone,
        "overlap": overlap,
        "catch_up": catch_up,
        "timeout": timeout,
        "priority": priority,
        "queue": queue,
        "tags": parse_tags(tag or []),
        "session": session,
        "auth": caller_of(subject, scope),
    }
    with_fleet(lambda fleet: add_schedule(fleet, name, skill, args, options, as_json=as_json))


def remove(name: _Name, *, as_json: Json = False) -> None:
    """Remove a schedule; runs that it has enqueued continue.

    Example:
      $ skillfleet schedules remove nightly
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.schedules import remove_schedule

    with_fleet(lambda fleet: remove_schedule(fleet, name, as_json=as_json))


def pause(name: _Name, *, as_json: Json = False) -> None:
    """Pause a schedule; what is due meanwhile is not made up for.

    Example:
      $ skillfleet schedules pause nightly
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.schedules import pause_schedule

    with_fleet(lambda fleet: pause_schedule(fleet, name, as_json=as_json))


def resume(name: _Name, *, as_json: Json = False) -> None:
    """Let a paused schedule go on with its next time.

    Example:
      $ skillfleet schedules resume nightly
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.schedules import resume_schedule

    with_fleet(lambda fleet: resume_schedule(fleet, name, as_json=as_json))


def run(name: _Name, *, as_json: Json = False) -> None:
    """Enqueue a run of a schedule now, beside its times, and print the run's id.

    Example:
      $ skillfleet schedules run nightly
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.schedules import run_schedule

    with_fleet(lambda fleet: run_schedule(fleet, name, as_json=as_json))


def next_(
    name: _Name,
    *,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many.")] = 5,
    as_json: Json = False,
) -> None:
    """Print the next times of a schedule, as if it were not paused.

    Example:
      $ skillfleet schedules next nightly
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.schedules import next_times

    with_fleet(lambda fleet: next_times(fleet, name, count, as_json=as_json))

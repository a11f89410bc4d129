"""The command `enqueue`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from typing import Annotated

import typer

from skillfleet_cli.options import (
    ArgumentPairs,
    Json,
    JsonArguments,
    OnBusy,
    SessionId,
    SkillName,
    TagPairs,
    WhenBusy,
)


def enqueue(  # noqa: PLR0913 - one parameter for each option
    skill: SkillName,
    json: JsonArguments = None,
    *,
    arg: ArgumentPairs = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show the run live and wait for its result.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Deadline: the run then ends as timed_out."),
    ] = None,
    delay: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Earliest start, from now.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(min=0, max=9, help="0 is the most urgent.", show_default="0")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The same key and arguments return the same run."),
    ] = None,
    queue: Annotated[
        str | None, typer.Option(metavar="NAME", help="Queue to use instead of the agent's own.")
    ] = None,
    tag: TagPairs = None,
    session: SessionId = None,
    on_busy: WhenBusy = OnBusy.QUEUE,
    as_json: Json = False,
) -> None:
    """Enqueue a run of a skill and print its id.

    With --follow, the run's text and result go to stdout, everything else to stderr. Ctrl-C
    cancels the run; a second Ctrl-C leaves at once. Exit code: 0 succeeded, 1 failed, 3
    cancelled, 4 timed out.

    Examples:
      $ skillfleet enqueue librarian.survey '{"folder": "."}' --follow
      $ skillfleet enqueue fleet.echo --arg text=hello
    """
    from skillfleet_cli.arguments import parse_arguments
    from skillfleet_cli.conditions import parse_tags
    from skillfleet_cli.enqueue import enqueue_run
    from skillfleet_cli.fleet import with_fleet

    args = parse_arguments(json, arg or [])
    options = {
        "timeout": timeout,
        "delay": delay,
        "priority": priority,
        "idempotency_key": idempotency_key,
        "queue": queue,
        "tags": parse_tags(tag or []),
        "session": session,
        "on_busy": on_busy.value,
    }
    with_fleet(
        lambda fleet: enqueue_run(fleet, skill, args, options, follow=follow, as_json=as_json)
    )

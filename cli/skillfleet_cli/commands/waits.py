"""The commands on waiting runs: waiting, answer, reject, send."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from typing import Annotated

import typer

from skillfleet_cli.options import Json, RunId, Scopes, Subject

WaitId = Annotated[
    str | None,
    typer.Option(
        "--wait", metavar="ID", help="Id of the wait.", show_default="the only open question"
    ),
]


def waiting(
    *,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="Runs to read at most.")
    ] = 100,
    as_json: Json = False,
) -> None:
    """List the open waits of all runs, the oldest first.

    Example:
      $ skillfleet waiting
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.waits import list_waits

    with_fleet(lambda fleet: list_waits(fleet, limit, as_json=as_json))


def answer(
    run: RunId,
    value: Annotated[
        str | None,
        typer.Argument(
            metavar="VALUE",
            help="The answer: JSON, or text where the question takes text; - reads stdin, @FILE a"
            " file.",
            show_default="a hidden prompt, or stdin",
        ),
    ] = None,
    *,
    wait: WaitId = None,
    subject: Subject = None,
    scope: Scopes = None,
    as_json: Json = False,
) -> None:
    """Answer a question that a run asks.

    The answer is checked against the question's schema. A question is answered once: the same
    answer again changes nothing, another one is refused. Leave VALUE out where the answer is a
    secret: arguments stay in the history of the shell.

    Examples:
      $ skillfleet answer 1f0c… true
      $ skillfleet answer 1f0c… '{"environment": "staging"}' --wait 2
      $ skillfleet answer 1f0c… < password.txt
    """
    from skillfleet_cli.arguments import read_given
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.waits import answer_run, caller_of

    caller, given = caller_of(subject, scope), read_given(value)
    with_fleet(lambda fleet: answer_run(fleet.run(run), given, wait, caller, as_json=as_json))


def reject(
    run: RunId,
    reason: Annotated[
        str, typer.Argument(metavar="REASON", help="Reason, for the skill.", show_default=False)
    ],
    *,
    wait: WaitId = None,
    subject: Subject = None,
    scope: Scopes = None,
    as_json: Json = False,
) -> None:
    """Reject a question that a run asks; its skill gets the reason.

    Example:
      $ skillfleet reject 1f0c… "not on a Friday"
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.waits import caller_of, reject_run

    caller = caller_of(subject, scope)
    with_fleet(lambda fleet: reject_run(fleet.run(run), reason, wait, caller, as_json=as_json))


def send(
    run: RunId,
    json: Annotated[
        str,
        typer.Argument(
            metavar="JSON",
            help="The message as JSON; - reads stdin, @FILE a file.",
            show_default=False,
        ),
    ],
    *,
    subject: Subject = None,
    scope: Scopes = None,
    as_json: Json = False,
) -> None:
    """Send a message into the inbox of a run that has not ended.

    Example:
      $ skillfleet send 1f0c… '{"instruction": "leave out the tests"}'
    """
    from skillfleet_cli.fleet import with_fleet
    from skillfleet_cli.waits import caller_of, send_to_run

    caller = caller_of(subject, scope)
    with_fleet(lambda fleet: send_to_run(fleet.run(run), json, caller, as_json=as_json))

"""Arguments and options that several commands share."""

from enum import StrEnum
from typing import Annotated

import typer

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
SkillName = Annotated[
    str,
    typer.Argument(metavar="SKILL", help="Name of the skill, <agent>.<skill>.", show_default=False),
]
JsonArguments = Annotated[
    str | None,
    typer.Argument(metavar="JSON", help="Arguments as a JSON object; - reads stdin, @FILE a file."),
]
ArgumentPairs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="One argument; a value that is not valid JSON is a string. May be repeated.",
    ),
]
TagPairs = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="KEY=VALUE", help="A tag that the run has. May be repeated."),
]
Subject = Annotated[
    str | None,
    typer.Option(
        "--subject", "-s", metavar="NAME", help="Subject: who does this.", show_default=False
    ),
]
SessionOwner = Annotated[
    str | None,
    typer.Option(
        "--subject", "-s", metavar="NAME", help="Subject whose session it is.", show_default=False
    ),
]
SessionTenant = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Tenant of that subject.", show_default=False),
]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", metavar="NAME", help="A scope of the subject; may be repeated."),
]
SessionId = Annotated[
    str | None, typer.Option(metavar="ID", help="Session: its runs execute one after the other.")
]


class OnBusy(StrEnum):
    """The choices for a run whose session is busy, for the help."""

    QUEUE = "queue"
    REJECT = "reject"
    CANCEL_RUNNING = "cancel_running"
    SEND = "send"


WhenBusy = Annotated[
    OnBusy, typer.Option(help="What to do while the session has a run that has not ended.")
]

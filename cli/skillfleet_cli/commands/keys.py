"""The commands `keys new` and `token`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from pathlib import Path
from typing import Annotated

import typer

from skillfleet_cli.options import ArgumentPairs, Json, JsonArguments, SkillName


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Id of the key, such as backend-2026-11.")
    ],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")
    ] = Path(),
    answers: Annotated[
        bool,
        typer.Option("--answers", help="Generate a key that decrypts secret answers (X25519)."),
    ] = False,
) -> None:
    """Generate a key pair that signs runs (Ed25519).

    Writes NAME.private.pem, for the signer's SKILLFLEET_AUTH_SIGNING_KEY_FILE, and NAME.pem, for
    the folder SKILLFLEET_AUTH_KEYS of all workers (SKILLFLEET_AUTH_WORKER_KEYS for a worker's
    own key). With --answers, only NAME.private.pem, for the folder SKILLFLEET_ANSWER_KEYS of all
    workers. Never replaces a file.

    Examples:
      $ skillfleet keys new backend-2026-11 --out /etc/skillfleet/keys
      $ skillfleet keys new 2026-11 --answers --out /etc/skillfleet/answer-keys
    """
    from skillfleet_auth.signing import write_new_answer_key, write_new_key
    from skillfleet_cli.exits import CommandError
    from skillfleet_cli.output import console, styled

    try:
        if answers:
            path = write_new_answer_key(out, name)
            console().print(styled(f"private: {path} (keep it secret: it decrypts answers)"))
            return
        private, public = write_new_key(out, name)
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error
    console().print(styled(f"private: {private} (keep it secret: it signs runs)"))
    console().print(styled(f"public:  {public}"))


def token(
    skill: SkillName,
    json: JsonArguments = None,
    *,
    arg: ArgumentPairs = None,
    subject: Annotated[
        str | None,
        typer.Option(
            "--subject", "-s", metavar="NAME", help="Subject: who calls.", show_default="issuer"
        ),
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A scope; may be repeated.")
    ] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An additional claim; may be repeated."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="ID", help="Id of the run.", show_default="a new one"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign one run for a client without a key, and print the run's id and token.

    The token is valid for this run id, skill and arguments only, for
    SKILLFLEET_AUTH_TOKEN_SECONDS. It is signed with SKILLFLEET_AUTH_SIGNING_KEY_FILE. A plain
    Celery client sends it as the header skillfleet-token, with the run's id as task_id.

    Example:
      $ skillfleet token librarian.survey '{"folder": "."}' --subject ada --scope files:read
    """
    from skillfleet_cli.arguments import parse_arguments
    from skillfleet_cli.keys import print_token

    caller = parse_arguments(None, claim or [])
    if subject is not None:
        caller["sub"] = subject
    if scope:
        caller["scopes"] = scope
    print_token(skill, parse_arguments(json, arg or []), caller, run, as_json=as_json)

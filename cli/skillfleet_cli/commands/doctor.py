"""The command `doctor`."""

# ruff: noqa: PLC0415 - a command loads its work when it runs, so that --help is quick

from typing import Annotated

import typer

from skillfleet_cli.options import Json


def doctor(
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Also exit with 1 on warnings.")] = False,
    as_json: Json = False,
) -> None:
    """Check Redis and the fleet, and give advice on every problem.

    Exits with 1 on a problem: the fleet could lose runs or cannot work. Anything that only needs
    attention, such as a queue without a worker, is a warning.

    Examples:
      $ skillfleet doctor
      $ skillfleet doctor --json | jq '.findings[] | select(.level != "ok")'
    """
    from skillfleet_cli.doctor.report import report_health
    from skillfleet_cli.fleet import with_fleet

    with_fleet(lambda fleet: report_health(fleet, strict=strict, as_json=as_json))

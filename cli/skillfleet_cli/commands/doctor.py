"""The verb `doctor`."""

# ruff: noqa: PLC0415 - a verb loads its work when it runs, so that --help is quick

from typing import Annotated

import typer

from skillfleet_cli.options import Json


def doctor(
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for warnings.")] = False,
    as_json: Json = False,
) -> None:
    """Check Redis and the fleet, and say what to do about what is wrong.

    Exits with 1 for a problem: the fleet could lose runs or cannot work. What only asks for
    attention, as a queue without a worker, is a warning.

    Examples:
      $ skillfleet doctor
      $ skillfleet doctor --json | jq '.findings[] | select(.level != "ok")'
    """
    from skillfleet_cli.health.report import report_health
    from skillfleet_cli.session import with_fleet

    with_fleet(lambda fleet: report_health(fleet, strict=strict, as_json=as_json))

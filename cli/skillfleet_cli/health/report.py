"""The doctor's rounds, and the report of them."""

import typer
from rich.text import Text

from skillfleet.errors import FleetUnavailableError
from skillfleet_cli.exits import ExitCode
from skillfleet_cli.health import Finding, Level
from skillfleet_cli.health.fleet import examine_fleet
from skillfleet_cli.health.server import examine_broker, examine_server
from skillfleet_cli.output import console, print_json
from skillfleet_producer import AsyncFleet

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


async def report_health(fleet: AsyncFleet, *, strict: bool, as_json: bool) -> None:
    """Print all findings; exits with FAILED for a problem, with `strict` for a warning, too."""
    findings = await _examine(fleet)
    bad = {Level.PROBLEM, Level.WARNING} if strict else {Level.PROBLEM}
    healthy = not any(finding.level in bad for finding in findings)
    if as_json:
        print_json({"healthy": healthy, "findings": findings})
    else:
        _show(findings)
    raise typer.Exit(ExitCode.OK if healthy else ExitCode.FAILED)


async def _examine(fleet: AsyncFleet) -> list[Finding]:
    ledger = fleet.ledger
    broker = await examine_broker(fleet.settings)
    try:
        return [*await examine_server(ledger), *broker, *await examine_fleet(ledger)]
    except FleetUnavailableError as error:
        advice = "is it running, and is SKILLFLEET_REDIS_URL right?"
        return [Finding("redis", Level.PROBLEM, str(error), advice), *broker]


def _show(findings: list[Finding]) -> None:
    terminal = console()
    wide = max(len(finding.check) for finding in findings)
    for finding in findings:
        level = (f"{finding.level:<8}", _STYLES[finding.level])
        terminal.print(Text.assemble(level, f" {finding.check:<{wide}}  {finding.text}"))
        if finding.level is not Level.OK and finding.advice:
            terminal.print(f"{'':<{wide + 11}}-> {finding.advice}")

"""All health checks, and their report."""

from collections.abc import Coroutine
from typing import Any

import typer

from skillfleet_cli.doctor import Finding, Level
from skillfleet_cli.doctor.fleet import examine_fleet
from skillfleet_cli.doctor.objects import examine_objects
from skillfleet_cli.doctor.sandboxes import examine_sandboxes
from skillfleet_cli.doctor.server import examine_broker, examine_server
from skillfleet_cli.doctor.workspaces import examine_workspaces
from skillfleet_cli.doctor.writing import advice_on, code_of
from skillfleet_cli.exits import ExitCode
from skillfleet_cli.output import console, print_json, styled
from skillfleet_ledger.redis_client.connection import ReplyError
from skillfleet_producer import AsyncFleet

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


async def report_health(fleet: AsyncFleet, *, strict: bool, as_json: bool) -> None:
    """Print all findings; exits with FAILED on a problem, with `strict` also on a warning."""
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
    server = await _tried("redis", examine_server(ledger))
    findings = [*server, *await examine_broker(fleet.settings)]
    if len(server) > 1:
        findings += await _tried("fleet", examine_fleet(ledger))
    findings += await _tried("objects", examine_objects(ledger))
    findings += await _tried("workspace", examine_workspaces(fleet))
    return findings + await _tried("sandboxes", examine_sandboxes(fleet))


async def _tried(check: str, work: Coroutine[Any, Any, list[Finding]]) -> list[Finding]:
    """Return the findings of `work`, or one finding about its failure."""
    try:
        return await work
    except (ReplyError, OSError) as error:
        advice = "is it running, and is SKILLFLEET_REDIS_URL right?"
        if isinstance(error, ReplyError) or code_of(error) or "unknown command" in str(error):
            advice = advice_on(error)
        return [Finding(check, Level.PROBLEM, str(error), advice)]
    except Exception as error:  # noqa: BLE001 - a check that fails is a finding itself
        text = f"could not be read: {type(error).__name__}: {error}"
        return [Finding(check, Level.PROBLEM, text, "the data found is not in the fleet's format")]


def _show(findings: list[Finding]) -> None:
    terminal = console()
    wide = max(len(finding.check) for finding in findings)
    for finding in findings:
        level = (f"{finding.level:<8}", _STYLES[finding.level])
        terminal.print(styled(level, f" {finding.check:<{wide}}  {finding.text}"))
        if finding.level is not Level.OK and finding.advice:
            terminal.print(styled(f"{'':<{wide + 11}}-> {finding.advice}"))

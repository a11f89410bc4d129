"""Check that this process can make the sandboxes that its settings select."""

import os

from skillfleet.errors import SandboxUnavailable, SettingsError
from skillfleet.ports.loading import load
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.sandbox import SANDBOX
from skillfleet_cli.doctor import Finding, Level
from skillfleet_producer import AsyncFleet


async def examine_sandboxes(fleet: AsyncFleet) -> list[Finding]:
    """Return a finding about the kind of sandbox; none where no kind is selected.

    A problem is a warning: a worker starts, and only skills that execute code fail.
    """
    variables = os.environ  # noqa: TID251 - adapters read their settings there
    environment = AdapterEnvironment(fleet=fleet.settings.namespace, variables=variables)
    kind = variables.get(SANDBOX.variable, "")
    return [await _examine(kind, environment)] if kind else []


async def _examine(kind: str, environment: AdapterEnvironment) -> Finding:
    try:
        provider = load(SANDBOX, kind, environment)
    except SettingsError as error:
        return Finding("sandboxes", Level.PROBLEM, str(error), "correct the settings of workers")
    if provider is None:
        return Finding("sandboxes", Level.OK, f"{kind} is off")
    try:
        return Finding("sandboxes", Level.OK, await provider.report())
    except SandboxUnavailable as error:
        advice = "run it where workers run; docs/isolation.md lists what each kind needs"
        return Finding("sandboxes", Level.WARNING, str(error), advice)
    finally:
        await provider.aclose()

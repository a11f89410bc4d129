"""Check that the object store takes, returns and deletes objects."""

from skillfleet.errors import ObjectStoreError
from skillfleet_cli.doctor import Finding, Level
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.objects import RunObjects


async def examine_objects(ledger: Ledger) -> list[Finding]:
    """Return a finding about the object store; none without one."""
    return [] if ledger.objects is None else [await _examine(ledger.objects)]


async def _examine(objects: RunObjects) -> Finding:
    try:
        await objects.probe()
    except ObjectStoreError as error:
        advice = "check SKILLFLEET_ARTIFACTS_URL, the endpoint and the credentials of this process"
        return Finding("objects", Level.PROBLEM, str(error), advice)
    return Finding("objects", Level.OK, "the object store takes, returns and deletes objects")

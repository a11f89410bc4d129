"""Check that the workspaces take, return and delete files, where this process has any."""

import secrets

from skillfleet.errors import SettingsError, SkillfleetError
from skillfleet_cli.doctor import Finding, Level
from skillfleet_producer import AsyncFleet
from skillfleet_producer.workspaces import WorkspaceFiles

_ADVICE = "check SKILLFLEET_WORKSPACE, the settings of that adapter and the rights of this process"
_SESSION = "skillfleet-doctor"


async def examine_workspaces(fleet: AsyncFleet) -> list[Finding]:
    """Return a finding about the workspaces; none without SKILLFLEET_WORKSPACE."""
    if not fleet.settings.workspace:
        return []
    try:
        await _probe(fleet.session(_SESSION).workspace)
    except SettingsError as error:
        return [Finding("workspace", Level.PROBLEM, str(error), "set it as on the workers")]
    except (OSError, SkillfleetError) as error:
        return [Finding("workspace", Level.PROBLEM, f"cannot be used: {error}", _ADVICE)]
    return [Finding("workspace", Level.OK, "workspaces take, return and delete files")]


async def _probe(files: WorkspaceFiles) -> None:
    """Write a file, read it and delete it, in the workspace of a session without runs."""
    path, data = f"probe-{secrets.token_hex(8)}", secrets.token_bytes(64)
    await files.put(path, data)
    try:
        if await files.get(path) != data:
            raise OSError("a file that was written is read with another content")
    finally:
        await files.delete(path)

"""Workspaces in the object store: which manifest is the state of each, and who may write to it.

Objects are content-addressed, and a manifest names those of one state. The ledger keeps the name of
the manifest, which changes by compare-and-set: under the lease of an attempt, so that one that
lost its lease publishes nothing, or without one, for producers.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

from skillfleet.workspaces.names import busy
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.runs.base import RunOperations

RIGHT_MS: Final = 60_000
"""How long the right of a producer lasts after it was taken or used."""
UNUSED_MS: Final = 3_600_000
"""How old an object is before it may be deleted as unused: no call takes as long."""
_MOST: Final = 20
"""Workspaces that are looked at in one round."""
_BUSY: Final = -2


class Published(IntEnum):
    """The answer to a publication: done, the lease is lost, or the manifest is another one."""

    DONE = 1
    LOST = 0
    STALE = -1


class Writer(NamedTuple):
    """The writer of a workspace: an attempt with its lease, or a producer, whose fields are ''."""

    run_id: str = ""
    token: str = ""


class DueWorkspace(NamedTuple):
    """A workspace whose objects are unused but for those of its manifest; '' is none."""

    workspace: str
    manifest: str


class Workspaces(RunOperations):
    """The manifests and writers of workspaces, by the ids of `skillfleet.ports.workspace`."""

    async def manifest(self, workspace: str) -> str:
        """Return the manifest of a workspace; '' for an empty one."""
        found = await self._connection.execute("HGET", self._workspace(workspace), "manifest")
        return found.decode() if found else ""

    async def note(self, workspace: str) -> None:
        """Note a workspace before its first objects are written, so that they are found."""
        due = await self._connection.execute("TIME")
        at = int(due[0]) * 1000 + UNUSED_MS
        key = f"{self._keys.prefix(_owner(workspace))}workspaces"
        await self._connection.execute("ZADD", key, "NX", at, workspace)

    async def publish(
        self, workspace: str, before: str, after: str, writer: Writer, right: str, *, files: bool
    ) -> Published:
        """Make `after` the manifest, if `before` still is.

        `files` says whether it changes files, and not only the state beside them. Raises
        WorkspaceBusy for a change of files while another writer has the right, and for a right
        that was lost.
        """
        args = (before, after, *writer, right, int(files), RIGHT_MS, UNUSED_MS)
        status, *holder = await self._call("publish_workspace", workspace, *args)
        _check(status, holder)
        return Published(status)

    async def hold(self, workspace: str, right: str, holder: str, writer: Writer) -> bool:
        """Take the right to write, whose name is new; False when the attempt lost its lease.

        Raises WorkspaceBusy.
        """
        args = (right, holder, *writer, RIGHT_MS, UNUSED_MS)
        status, *found = await self._call("hold_workspace", workspace, *args)
        _check(status, found)
        return bool(status)

    async def give_back(self, workspace: str, right: str) -> None:
        """Give a right back; one that is gone is no error."""
        await self._call("hold_workspace", workspace, right, "", *Writer(), 0, 0)

    async def due(self, shard: int, empty: Sequence[str]) -> list[DueWorkspace]:
        """Return workspaces to look at now; `empty` are earlier ones that have no objects now."""
        kept_ms = int(self._settings.session_retention_seconds * 1000)
        prefix = self._keys.shard_prefix(shard)
        args = (_MOST, UNUSED_MS, kept_ms, *empty)
        found = await run_script(self._connection, "due_workspaces", (prefix,), args)
        names = [each.decode() for each in found]
        return [DueWorkspace(*pair) for pair in zip(names[::2], names[1::2], strict=True)]

    async def _call(self, script: str, workspace: str, *args: Any) -> Any:
        prefix = self._keys.prefix(_owner(workspace))
        return await run_script(self._connection, script, (prefix,), (workspace, *args))

    def _workspace(self, workspace: str) -> str:
        return f"{self._keys.prefix(_owner(workspace))}workspace:{workspace}"


def _owner(workspace: str) -> str:
    """Return the session or run of a workspace, which names the shard."""
    return workspace.partition(":")[2] or workspace


def _check(status: int, holder: Sequence[bytes]) -> None:
    if status == _BUSY:
        raise busy(holder[0].decode())

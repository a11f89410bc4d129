"""A process that is killed during a commit, after some writes; arguments: directory, writes."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from skillfleet.contracts import WorkspaceAccess, WorkspaceMode
from skillfleet.ports.grants import GrantParty, RunGrants
from skillfleet.testing.conformance.workspace import DyingStorage, KilledProcess
from skillfleet.testing.local_grants import awaited, local_authority
from skillfleet.workspaces.client import StoredWorkspaceClient
from skillfleet.workspaces.desk import Attempt, Exchange
from skillfleet.workspaces.directory import DirectoryWorkspaces

WORKSPACE = "session:killed"
FILES = 20
ACCESS = WorkspaceAccess.dynamic(
    max_files=FILES, allowed_modes=tuple(WorkspaceMode), require_reason=False
)


def generation(number: int) -> dict[str, bytes]:
    """The files of one commit; names differ as well as contents."""
    return {
        f"folder-{index % 3}/{index}{'' if (number + index) % 2 else '-odd'}.txt": b"%d" % number
        for index in range(FILES // 2)
    }


async def approve(question: str) -> bool:
    raise AssertionError(question)


def defer(cleanup: Callable[[], Awaitable[object]]) -> None:
    del cleanup


async def check_lease() -> None:
    """Nothing takes the lease of these attempts."""


def attempt_of(run_id: str, provider: DirectoryWorkspaces, workspace: str) -> Attempt:
    """Return the first attempt of a run, which asks no one and keeps its lease."""
    grants = RunGrants(local_authority(), GrantParty(run_id, "killed", "root"), awaited)
    exchange = Exchange(workspace, grants, provider.storage)
    return Attempt(run_id, 1, approve, defer, check_lease, exchange)


class KillingStorage(DyingStorage):
    """A storage whose process is killed by the system before a write."""

    def count(self) -> None:
        try:
            super().count()
        except KilledProcess:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(directory: Path, writes: int) -> None:
    provider = DirectoryWorkspaces(directory)
    storage = KillingStorage(provider.storage(WORKSPACE))
    for number in (1, 2):
        attempt = attempt_of(f"run-{number}", provider, WORKSPACE)
        client = StoredWorkspaceClient(storage, ACCESS, attempt)
        view = await client.open_view(
            purpose="", hints=["**"], mode=WorkspaceMode.READ_WRITE_OVERLAY, max_files=FILES
        )
        wanted = generation(number)
        for match in await view.list():
            if match.path not in wanted:
                await view.delete(match.path)
        for path, data in wanted.items():
            await view.write(path, data)
        if number > 1:
            storage.left = writes
        await view.commit()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))

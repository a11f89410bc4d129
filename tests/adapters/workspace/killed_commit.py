"""A process that commits overlays until it is killed; its argument is the directory."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from skillfleet.contracts import WorkspaceAccess, WorkspaceMode
from skillfleet.ports.grants import GrantParty, RunGrants
from skillfleet.testing.local_grants import awaited, local_authority
from skillfleet.workspaces.client import StoredWorkspaceClient
from skillfleet.workspaces.desk import Attempt, Exchange
from skillfleet.workspaces.directory import DirectoryWorkspaces

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


async def main(directory: Path) -> None:
    provider = DirectoryWorkspaces(directory)
    storage = provider.storage("session:killed")
    for number in range(1, 1_000_000):
        party = GrantParty(f"run-{number}", "killed", "root")
        grants = RunGrants(local_authority(), party, awaited)
        exchange = Exchange("session:killed", grants, provider.storage)
        attempt = Attempt(party.run_id, 1, approve, defer, check_lease, exchange)
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
        print(number, flush=True)  # noqa: T201 - the test kills it after this line
        await view.commit()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

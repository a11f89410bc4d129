"""Commits that fail, as on a full disk, and views that are discarded afterwards."""

import pytest

from skillfleet.ports.workspace import WorkspaceStorage
from skillfleet.testing.conformance.workspace import OVERLAY, Desk, DyingStorage
from skillfleet.workspaces.memory import MemoryWorkspaces

OLD = {"a.txt": b"old a", "b.txt": b"old b", "c.txt": b"old c"}
NEW = {"a.txt": b"new a", "b.txt": b"new b", "d.txt": b"new d"}
REQUEST = {"files": ["**"], "mode": OVERLAY, "reason": "tests"}


class FailingStorage(DyingStorage):
    """A storage of which some writes fail, once `left` is a number."""

    def __init__(self, storage: WorkspaceStorage, failures: int) -> None:
        super().__init__(storage)
        self._failures = failures

    def count(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0 and self._failures:
                self._failures -= 1
                raise OSError(28, "the disk is full")


async def attempt(steps: int, failures: int) -> tuple[bool, dict[str, bytes]]:
    """Commit with failures after some writes, and discard; returns the failure and the files."""
    desk = Desk(MemoryWorkspaces(OLD))
    storage = FailingStorage(desk.storage, failures)
    client = desk.client(storage=storage)
    view = await client.view(await client.request_access(**REQUEST))  # type: ignore[arg-type]
    for path in ("a.txt", "b.txt", "d.txt"):
        await view.write(path, NEW[path])
    await view.delete("c.txt")
    storage.left, failed = steps, False
    try:
        await view.commit()
    except OSError:
        failed = True
    storage.left = None
    if failed:
        await view.discard()
    assert await view.patches() == []
    later = desk.client(run="run-2")
    again = await later.view(await later.request_access(**REQUEST))  # type: ignore[arg-type]
    assert {each.path: await again.read(each.path) for each in await again.list()} == (
        await desk.content()
    )
    return failed, await desk.content()


@pytest.mark.parametrize("failures", [1, 2, 1000])
async def test_a_commit_that_fails_changes_all_or_nothing_and_can_be_discarded(
    failures: int,
) -> None:
    outcomes = [await attempt(steps, failures) for steps in range(20)]
    assert outcomes[0] == (True, OLD)
    assert outcomes[-1] == (False, NEW)
    for _, found in outcomes:
        assert found in (OLD, NEW)
    if failures == 1:
        applied = [found for failed, found in outcomes if failed][:6]
        assert applied == [OLD] * 6

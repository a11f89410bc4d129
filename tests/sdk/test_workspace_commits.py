"""Commits that fail, as on a full disk, and views that are discarded afterwards."""

import pytest

from skillfleet.errors import WorkspaceDenied
from skillfleet.ports.workspace import WorkspaceStorage
from skillfleet.testing.conformance.workspace import ALL, OVERLAY, Desk, DyingStorage
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


async def test_what_an_earlier_attempt_staged_is_not_committed_once_it_is_denied() -> None:
    desk = Desk(MemoryWorkspaces(OLD))
    first = desk.client()
    view = await first.view(await first.request_access(**REQUEST))  # type: ignore[arg-type]
    await view.write("a.txt", b"new")
    stricter = ALL.model_copy(update={"deny_patterns": ("A.txt",)})
    second = desk.client(stricter, number=2)
    again = await second.view(await second.request_access(**REQUEST))  # type: ignore[arg-type]
    with pytest.raises(WorkspaceDenied, match=r"does not let write 'a\.txt'"):
        await again.commit()
    assert await desk.content() == OLD


async def test_a_grant_without_approval_is_asked_for_once_the_access_requires_it() -> None:
    desk = Desk(MemoryWorkspaces(OLD))
    grant = await desk.client().request_access(**REQUEST)  # type: ignore[arg-type]
    stricter = ALL.model_copy(update={"require_human_approval": True})
    second = desk.client(stricter, number=2)
    assert await second.list_grants() == []
    with pytest.raises(WorkspaceDenied, match="a person has to approve"):
        await second.view(grant)
    for answer, expected in ((False, 0), (True, 1)):
        desk.approved = answer
        client = desk.client(stricter, number=2)
        if answer:
            again = await client.request_access(**REQUEST)  # type: ignore[arg-type]
            assert again.grant_id == grant.grant_id
        else:
            with pytest.raises(WorkspaceDenied, match="refused"):
                await client.request_access(**REQUEST)  # type: ignore[arg-type]
        assert len(await client.list_grants()) == expected
    assert len(desk.approvals) == 2


async def test_an_overlay_keeps_no_copy_of_a_file_above_the_limit() -> None:
    desk = Desk(MemoryWorkspaces({"large": bytes(1001), "small": bytes(1000)}))
    client = desk.client(ALL.model_copy(update={"max_total_size_bytes": 1000}))
    view = await client.view(await client.request_access(**REQUEST))  # type: ignore[arg-type]
    with pytest.raises(WorkspaceDenied, match="1001 bytes exceeds"):
        await view.write("large", b"x")
    with pytest.raises(WorkspaceDenied, match="1001 bytes exceeds"):
        await view.delete("large")
    await view.write("small", b"x")
    assert await view.commit() == ["small"]


@pytest.mark.parametrize("hint", ["*", "secret*", "s"])
async def test_a_file_with_the_name_of_a_pattern_grants_no_other_file(hint: str) -> None:
    desk = Desk(MemoryWorkspaces({"**": b"", "s*": b"", "secret": b"", "t": b""}))
    view = await desk.client().open_view(purpose="tests", hints=[hint], max_files=1, reason="x")
    assert view.grant.files == ("secret",)

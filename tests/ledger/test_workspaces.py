"""Workspaces in the ledger: publication under the lease, the right to write, what is unneeded."""

import pytest

from skillfleet.errors import WorkspaceBusy
from skillfleet_ledger import Ledger
from skillfleet_ledger.runs.records import Lease
from skillfleet_ledger.runs.workspaces import DueWorkspace, Published, Writer
from tests.ledger.helpers import claimed, lapse, reap, running, touch

PRODUCER = Writer()


def writer(lease: Lease) -> Writer:
    return Writer(lease.run_id, str(lease.token))


async def publish(
    ledger: Ledger,
    workspace: str,
    before: str,
    after: str,
    by: Writer = PRODUCER,
    right: str = "",
    *,
    files: bool = True,
) -> Published:
    return await ledger.workspaces.publish(workspace, before, after, by, right, files=files)


async def overtaken(ledger: Ledger) -> tuple[str, Writer, Writer]:
    """Return a run's workspace, the writer that lost its lease, and the one that has it."""
    lease = await running(ledger)
    await lapse(ledger, lease.run_id)
    await reap(ledger)
    return f"run:{lease.run_id}", writer(lease), writer(await claimed(ledger, lease.run_id))


async def let_be_due(ledger: Ledger, workspace: str) -> None:
    await touch(ledger, "ZADD", workspace.partition(":")[2], "workspaces", "XX", 1, workspace)


async def due(ledger: Ledger, *empty: str) -> list[DueWorkspace]:
    return await ledger.workspaces.due(0, empty)


async def noted(ledger: Ledger) -> list[str]:
    return [each.decode() for each in await touch(ledger, "ZRANGE", "x", "workspaces", 0, -1)]


async def test_a_manifest_is_published_upon_the_present_one_only(ledger: Ledger) -> None:
    assert await ledger.workspaces.manifest("session:/s") == ""
    assert await publish(ledger, "session:/s", "", "m1") is Published.DONE
    assert await publish(ledger, "session:/s", "", "m2") is Published.STALE
    assert await publish(ledger, "session:/s", "m2", "m3") is Published.STALE
    assert await ledger.workspaces.manifest("session:/s") == "m1"
    assert await publish(ledger, "session:/s", "m1", "m2") is Published.DONE
    # Its answer was lost.
    assert await publish(ledger, "session:/s", "m1", "m2") is Published.DONE
    assert await ledger.workspaces.manifest("session:/s") == "m2"
    assert await ledger.workspaces.manifest("session:/t") == ""


async def test_an_attempt_without_its_lease_publishes_nothing(ledger: Ledger) -> None:
    workspace, lost, holder = await overtaken(ledger)
    assert await publish(ledger, workspace, "", "m1", holder) is Published.DONE
    for files in (True, False):
        found = await publish(ledger, workspace, "m1", "m2", lost, files=files)
        assert found is Published.LOST
    assert not await ledger.workspaces.hold(workspace, "r", "lost", lost)
    assert await ledger.workspaces.manifest(workspace) == "m1"
    other = Writer(holder.run_id, "7")
    assert await publish(ledger, workspace, "m1", "m2", other) is Published.LOST


async def test_others_change_no_files_while_a_run_has_the_right(ledger: Ledger) -> None:
    lease, other = await running(ledger), await running(ledger, id="other")
    assert await ledger.workspaces.hold("session:/s", "r1", "run one", writer(lease))
    # Its answer was lost.
    assert await ledger.workspaces.hold("session:/s", "r1", "run one", writer(lease))
    for by in (PRODUCER, writer(other)):
        with pytest.raises(WorkspaceBusy, match="run one") as busy:
            await publish(ledger, "session:/s", "", "m1", by)
        assert busy.value.holder == "run one"
        with pytest.raises(WorkspaceBusy, match="run one"):
            await ledger.workspaces.hold("session:/s", "r2", "two", by)
    state = await publish(ledger, "session:/s", "", "m1", writer(other), files=False)
    assert state is Published.DONE
    held = await publish(ledger, "session:/s", "m1", "m2", writer(lease), "r1")
    assert held is Published.DONE
    await ledger.workspaces.give_back("session:/s", "another")
    with pytest.raises(WorkspaceBusy):
        await publish(ledger, "session:/s", "m2", "m3")
    await ledger.workspaces.give_back("session:/s", "r1")
    assert await publish(ledger, "session:/s", "m2", "m3") is Published.DONE
    with pytest.raises(WorkspaceBusy):
        await publish(ledger, "session:/s", "m3", "m4", writer(lease), "r1")


async def test_the_right_of_a_run_ends_with_its_lease(ledger: Ledger) -> None:
    lease = await running(ledger)
    workspace = f"run:{lease.run_id}"
    assert await ledger.workspaces.hold(workspace, "r1", "attempt 1", writer(lease))
    with pytest.raises(WorkspaceBusy):
        await ledger.workspaces.hold(workspace, "r2", "attempt 1 again", writer(lease))
    await lapse(ledger, lease.run_id)
    await reap(ledger)
    assert await publish(ledger, workspace, "", "m1") is Published.DONE
    again = writer(await claimed(ledger, lease.run_id))
    assert await publish(ledger, workspace, "m1", "m2") is Published.DONE
    assert await ledger.workspaces.hold(workspace, "r2", "attempt 2", again)
    with pytest.raises(WorkspaceBusy, match="attempt 2"):
        await publish(ledger, workspace, "m2", "m3")
    assert await publish(ledger, workspace, "m2", "m3", again, "r2") is Published.DONE


async def test_the_right_of_a_producer_ends_with_its_time(ledger: Ledger) -> None:
    async def until(at: int) -> None:
        await touch(ledger, "HSET", "/s", "workspace:session:/s", "until", at)

    async def left() -> bool:
        found = await touch(ledger, "HGET", "/s", "workspace:session:/s", "until")
        seconds, _ = await ledger.connection.execute("TIME")
        return bool(int(found) > int(seconds) * 1000)

    assert await ledger.workspaces.hold("session:/s", "r1", "one", PRODUCER)
    assert await left()
    with pytest.raises(WorkspaceBusy, match="one"):
        await ledger.workspaces.hold("session:/s", "r2", "two", PRODUCER)
    with pytest.raises(WorkspaceBusy, match="one"):
        await publish(ledger, "session:/s", "", "m1")
    await until(1)
    # No other writer has taken it: it is valid, and lasts again.
    held = await publish(ledger, "session:/s", "", "m1", PRODUCER, "r1")
    assert held is Published.DONE
    assert await left()
    await until(1)
    assert await publish(ledger, "session:/s", "m1", "m2") is Published.DONE
    assert not await left()
    assert await ledger.workspaces.hold("session:/s", "r2", "two", PRODUCER)
    with pytest.raises(WorkspaceBusy, match="two"):
        await publish(ledger, "session:/s", "m2", "m3", PRODUCER, "r1")


async def test_a_workspace_is_kept_while_its_run_is_recorded(ledger: Ledger) -> None:
    lease = await running(ledger)
    workspace = f"run:{lease.run_id}"
    await ledger.workspaces.note(workspace)
    assert await due(ledger) == []
    await publish(ledger, workspace, "", "m1", writer(lease))
    await let_be_due(ledger, workspace)
    assert await due(ledger, workspace) == [DueWorkspace(workspace, "m1")]
    assert await due(ledger) == []
    await ledger.workspaces.hold("run:gone", "r", "x", PRODUCER)
    await publish(ledger, "run:gone", "", "m1", PRODUCER, "r")
    await let_be_due(ledger, "run:gone")
    assert await due(ledger) == [DueWorkspace("run:gone", "")]
    assert await ledger.workspaces.manifest("run:gone") == ""
    # Its objects may not be deleted yet: it comes again.
    assert sorted(await noted(ledger)) == sorted([workspace, "run:gone"])
    assert await due(ledger, "run:gone", workspace) == []
    assert await noted(ledger) == [workspace]


async def test_a_workspace_without_its_session_is_kept_as_long_as_one(ledger: Ledger) -> None:
    await publish(ledger, "session:/s", "", "m1")
    await let_be_due(ledger, "session:/s")
    assert await due(ledger) == [DueWorkspace("session:/s", "m1")]
    month = int(ledger.settings.session_retention_seconds * 1000)
    seconds, _ = await ledger.connection.execute("TIME")
    old = (int(seconds) - 10) * 1000 - month
    await touch(ledger, "HSET", "/s", "workspace:session:/s", "changed", old)
    await touch(ledger, "HSET", "/s", "session:/s", "count", 1)
    await let_be_due(ledger, "session:/s")
    assert await due(ledger) == [DueWorkspace("session:/s", "m1")]
    await touch(ledger, "DEL", "/s", "session:/s")
    await let_be_due(ledger, "session:/s")
    assert await due(ledger) == [DueWorkspace("session:/s", "")]
    assert await ledger.workspaces.manifest("session:/s") == ""


async def test_a_right_alone_is_forgotten(ledger: Ledger) -> None:
    await ledger.workspaces.hold("session:/s", "r", "x", PRODUCER)
    assert await noted(ledger) == ["session:/s"]
    await let_be_due(ledger, "session:/s")
    assert await due(ledger) == [DueWorkspace("session:/s", "")]
    assert await touch(ledger, "EXISTS", "/s", "workspace:session:/s") == 0
    await due(ledger, "session:/s")
    assert await noted(ledger) == []

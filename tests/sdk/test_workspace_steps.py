"""Overlays and steps: a later attempt finds what recorded steps have staged, and no more."""

import asyncio

import pytest

from skillfleet import Agent, LocalRunContext, NoAuth, RunContext
from skillfleet.errors import StepFailed
from skillfleet.ports.workspace import WorkspaceAccess, WorkspaceMode, WorkspaceView
from skillfleet.testing import run_to_end

OVERLAY = WorkspaceMode.READ_WRITE_OVERLAY
ACCESS = WorkspaceAccess.dynamic(allowed_modes=(OVERLAY,))
FILES = {"a.txt": b"a", "b.txt": b"b", "c.txt": b"c"}
PLACES = ("nowhere", "staged", "changed", "ended", "recorded")
Patch = dict[str, str | None]
agent = Agent("editor")


def lose_at(ctx: RunContext, place: str, here: str) -> None:
    """Lose the first attempt at its place."""
    if place == here and ctx.attempt == 1:
        assert isinstance(ctx, LocalRunContext)
        ctx.lose()


async def open_files(ctx: RunContext) -> WorkspaceView:
    view: WorkspaceView = await ctx.workspace.open_view(
        purpose="tests", hints=["**"], mode=OVERLAY, reason="to edit"
    )
    return view


async def append(view: WorkspaceView, path: str, text: str) -> None:
    await view.write(path, await view.read(path) + text.encode())


async def patch_of(view: WorkspaceView) -> Patch:
    return {
        each.path: None if each.content is None else each.content.decode()
        for each in await view.patches()
    }


@agent.skill(workspace=ACCESS)
async def edit(ctx: RunContext, place: str) -> Patch:
    """Edit files in three steps, in the second one in several ways, which are not idempotent."""
    view = await open_files(ctx)

    async def first() -> None:
        await append(view, "a.txt", "1")
        await view.delete("b.txt")

    async def second() -> None:
        await append(view, "a.txt", "2")
        lose_at(ctx, place, "staged")
        await view.write("b.txt", b"b")
        await view.write("new.txt", b"")
        lose_at(ctx, place, "changed")
        await append(view, "a.txt", "3")
        await append(view, "c.txt", "3")
        await append(view, "new.txt", "3")
        lose_at(ctx, place, "ended")

    await ctx.step("first", first)
    await ctx.step("second", second)
    lose_at(ctx, place, "recorded")
    await ctx.step("third", append, view, "c.txt", "4", key="third")
    return await patch_of(view)


@pytest.mark.parametrize("place", PLACES)
async def test_the_patch_is_that_of_a_run_that_lost_nothing(place: str) -> None:
    ctx = LocalRunContext(auth=NoAuth(), workspace=FILES)
    patch = await run_to_end(edit, ctx, {"place": place})
    assert patch == {"a.txt": "a123", "c.txt": "c34", "new.txt": "3"}
    assert ctx.journal.attempts == (1 if place == "nowhere" else 2)


@agent.skill(workspace=ACCESS)
async def discard(ctx: RunContext, place: str) -> list[Patch]:
    """Return what is staged before and after a step that drops all and begins anew."""
    view = await open_files(ctx)
    await ctx.step("append", append, view, "a.txt", "1", key="append")

    async def begin_anew() -> list[Patch]:
        found = await patch_of(view)
        await view.discard()
        lose_at(ctx, place, "staged")
        await append(view, "a.txt", "2")
        lose_at(ctx, place, "changed")
        return [found, await patch_of(view)]

    return await ctx.step("begin anew", begin_anew)


@pytest.mark.parametrize("place", PLACES[:3])
async def test_a_lost_step_has_discarded_nothing(place: str) -> None:
    ctx = LocalRunContext(auth=NoAuth(), workspace=FILES)
    found = await run_to_end(discard, ctx, {"place": place})
    assert found == [{"a.txt": "a1"}, {"a.txt": "a2"}]


@agent.skill(workspace=ACCESS)
async def commit(ctx: RunContext, place: str) -> Patch:
    """Commit in a step, and stage more in the same one."""
    view = await open_files(ctx)
    await ctx.step("append", append, view, "a.txt", "1", key="append")

    async def keep() -> None:
        await view.write("a.txt", b"kept")
        await view.write("b.txt", b"kept")
        await view.commit()
        await append(view, "c.txt", "2")
        lose_at(ctx, place, "staged")

    await ctx.step("keep", keep)
    return await patch_of(view)


@pytest.mark.parametrize("place", PLACES[:2])
async def test_what_a_lost_step_has_committed_stays_and_is_not_staged_again(place: str) -> None:
    ctx = LocalRunContext(auth=NoAuth(), workspace=FILES)
    assert await run_to_end(commit, ctx, {"place": place}) == {"c.txt": "c2"}
    later = await open_files(ctx)
    assert [await later.read(path) for path in ("a.txt", "b.txt")] == [b"kept", b"kept"]


@agent.skill(workspace=ACCESS)
async def side_by_side(ctx: RunContext, place: str) -> Patch:
    """Edit one file each in two steps at once, of which the first attempt records one."""
    view, written = await open_files(ctx), asyncio.Event()

    async def lost() -> None:
        await append(view, "a.txt", "1")
        written.set()
        if place == "changed" and ctx.attempt == 1:
            await asyncio.Event().wait()

    async def recorded() -> None:
        await written.wait()
        await append(view, "b.txt", "1")

    async def losing() -> None:
        await ctx.step("recorded", recorded)
        lose_at(ctx, place, "changed")

    await asyncio.gather(ctx.step("lost", lost), losing())
    return await patch_of(view)


@pytest.mark.parametrize("place", ["nowhere", "changed"])
async def test_of_two_steps_at_once_the_recorded_one_stays(place: str) -> None:
    ctx = LocalRunContext(auth=NoAuth(), workspace=FILES)
    patch = await run_to_end(side_by_side, ctx, {"place": place})
    assert patch == {"a.txt": "a1", "b.txt": "b1"}


@agent.skill(workspace=ACCESS)
async def one_after_the_other(ctx: RunContext, place: str) -> Patch:
    """Edit one file in two steps of which none ends in the first attempt."""
    view = await open_files(ctx)

    async def edit_twice(text: str, ends: bool) -> None:
        await append(view, "a.txt", text)
        if place == "changed" and ctx.attempt == 1:
            lose_at(ctx, place, "changed" if ends else "")
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as steps:
        steps.create_task(ctx.step("first", edit_twice, "1", False))
        await asyncio.sleep(0)
        steps.create_task(ctx.step("second", edit_twice, "2", True))
    return await patch_of(view)


@pytest.mark.parametrize("place", ["nowhere", "changed"])
async def test_lost_steps_of_one_file_are_undone_from_the_last_one_on(place: str) -> None:
    ctx = LocalRunContext(auth=NoAuth(), workspace=FILES)
    assert await run_to_end(one_after_the_other, ctx, {"place": place}) == {"a.txt": "a12"}


@agent.skill(workspace=ACCESS)
async def fail(ctx: RunContext, place: str) -> Patch:
    """Catch a failure; what the failed step has staged stays."""
    view = await open_files(ctx)

    async def failing() -> None:
        await append(view, "a.txt", "1")
        raise ValueError("it fails")

    with pytest.raises(StepFailed):
        await ctx.step("failing", failing)
    lose_at(ctx, place, "recorded")
    return await patch_of(view)


@pytest.mark.parametrize("place", ["nowhere", "recorded"])
async def test_what_a_recorded_failure_has_staged_stays(place: str) -> None:
    ctx = LocalRunContext(auth=NoAuth(), workspace=FILES)
    assert await run_to_end(fail, ctx, {"place": place}) == {"a.txt": "a1"}


@agent.skill(workspace=ACCESS)
async def stage_once(ctx: RunContext) -> Patch:
    """Stage in a step that is lost, and that stages nothing when it is executed again."""
    view = await open_files(ctx)

    async def stage() -> None:
        if ctx.attempt == 1:
            await append(view, "a.txt", "1")
            lose_at(ctx, "staged", "staged")

    await ctx.step("stage", stage)
    if ctx.attempt == 2:
        assert isinstance(ctx, LocalRunContext)
        ctx.lose()
    return await patch_of(view)


async def test_what_is_undone_stays_undone_in_all_later_attempts() -> None:
    ctx = LocalRunContext(auth=NoAuth(), workspace=FILES)
    assert await run_to_end(stage_once, ctx, {}) == {}
    assert ctx.journal.attempts == 3


@agent.skill(workspace=ACCESS)
async def stage_outside(ctx: RunContext, place: str) -> Patch:
    """Stage outside of steps, which later attempts do again."""
    view = await open_files(ctx)
    found = await patch_of(view)
    await view.write("a.txt", b"outside")
    lose_at(ctx, place, "staged")
    return found


async def test_what_is_staged_outside_of_steps_is_there_in_the_next_attempt() -> None:
    ctx = LocalRunContext(auth=NoAuth(), workspace=FILES)
    assert await run_to_end(stage_outside, ctx, {"place": "staged"}) == {"a.txt": "outside"}

"""Checkpoints in skills: folder and journal agree wherever an attempt is lost."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from skillfleet import Agent, NoAuth, RunContext
from skillfleet.durable.journal import journal_of
from skillfleet.errors import CapabilityUnavailableError, CheckpointConflict
from skillfleet.ports.checkpoint import Checkpoint
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.testing import LocalRunContext, run_to_end
from skillfleet_adapters.checkpoint import archive
from tests.support.waiting import wait_until_async

agent = Agent("keeper")
PLACES = ("written", "stored", "recorded")
LINES = 3


def context(base: Path, **options: object) -> LocalRunContext[NoAuth]:
    variables = {"SKILLFLEET_CHECKPOINTS_URL": f"file://{base}/store"}
    provider = archive.create(AdapterEnvironment(variables=variables))
    return LocalRunContext(auth=NoAuth(), checkpoints=provider, **options)  # type: ignore[arg-type]


@agent.skill()
async def write(ctx: RunContext, folder: str, place: str, lost: int) -> int:
    """Append lines in steps; the first attempt is lost at a place of step `lost`."""
    path = Path(folder)
    if ctx.attempt > 1:
        # This entry gets the number that the lost step's would have had.
        await ctx.step("other", int)
    await ctx.checkpoints.resume(path, owned=True)

    def lose_at(here: str, number: int) -> None:
        if (here, number, ctx.attempt) == (place, lost, 1):
            assert isinstance(ctx, LocalRunContext)
            ctx.lose()

    async def append(number: int) -> None:
        with (path / "lines").open("a") as file:
            file.write(f"{number}\n")
        lose_at("written", number)
        await ctx.checkpoints.create(path)
        lose_at("stored", number)

    for number in range(LINES):
        await ctx.step("append", append, number)
        lose_at("recorded", number)
    return ctx.attempt


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("lost", range(LINES))
async def test_a_lost_attempt_leaves_nothing_out_and_repeats_nothing(
    tmp_path: Path, place: str, lost: int
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    ctx = context(tmp_path)
    # The state before the first step; without it nothing is restored.
    await ctx.checkpoints.create(work, message="start")
    arguments = {"folder": str(work), "place": place, "lost": lost}
    assert await run_to_end(write, ctx, arguments) == 2
    assert (work / "lines").read_text() == "0\n1\n2\n"
    found = await ctx.checkpoints.list(work)
    assert found[0].position in {LINES, LINES + 1}
    assert {each.run_id for each in found} == {ctx.task_id}


async def test_another_runs_checkpoints_do_not_fit_unless_named(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    made = await context(tmp_path, task_id="first").checkpoints.create(work)
    other = context(tmp_path, task_id="second").checkpoints
    assert await other.fitting(work) is None
    assert await other.fitting(work, run_id="first") == made
    await other.restore(work, made.id, into=tmp_path / "fork")
    assert await other.diff(work, made.id) == []
    await other.delete(work, made.id)
    assert list(await other.list(work)) == []


async def test_a_context_without_checkpoints_says_so() -> None:
    with pytest.raises(CapabilityUnavailableError, match="checkpoints="):
        _ = LocalRunContext(auth=NoAuth()).checkpoints


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    """A folder of people, of which a run has a checkpoint, changed since."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "lines").write_text("0\n")
    return work


async def checkpointed(edited: Path, **options: object) -> LocalRunContext[NoAuth]:
    ctx = context(edited.parent, **options)
    await ctx.checkpoints.create(edited)
    (edited / "lines").write_text("a person's\n")
    return ctx


async def resumed(
    ctx: LocalRunContext[NoAuth], edited: Path, *answers: object
) -> Checkpoint | None:
    """Resume, and answer the questions in turn; a function is called for its answer."""
    resuming = asyncio.ensure_future(ctx.checkpoints.resume(edited))
    for answer in answers:
        await wait_until_async(lambda: asked(ctx, resuming))
        assert not resuming.done()
        assert "lines (changed)" in ctx.waits[0].question
        ctx.answer(answer() if callable(answer) else answer)
    return await resuming


async def asked(ctx: LocalRunContext[NoAuth], resuming: asyncio.Future[Any]) -> bool:
    return bool(ctx.waits) or resuming.done()


async def test_a_difference_in_a_folder_of_people_is_asked_about(edited: Path) -> None:
    ctx = await checkpointed(edited)
    found = await resumed(ctx, edited, True)
    assert found is not None
    assert (edited / "lines").read_text() == "0\n"
    # Nothing differs: no question.
    assert await resumed(ctx, edited) == found


async def test_a_folder_that_its_people_keep_is_a_conflict(edited: Path) -> None:
    ctx = await checkpointed(edited)
    with pytest.raises(CheckpointConflict, match="is kept"):
        await resumed(ctx, edited, False)
    assert (edited / "lines").read_text() == "a person's\n"


async def test_a_folder_that_changes_during_the_question_is_asked_about_again(edited: Path) -> None:
    ctx = await checkpointed(edited)

    def edits() -> bool:
        (edited / "lines").write_text("later\n")
        return True

    with pytest.raises(CheckpointConflict):
        await resumed(ctx, edited, edits, False)
    assert (edited / "lines").read_text() == "later\n"


async def test_a_later_attempt_without_a_difference_asks_nothing_and_misses_nothing(
    edited: Path,
) -> None:
    ctx = await checkpointed(edited)
    await resumed(ctx, edited, True)
    later = context(edited.parent, journal=ctx.journal)
    assert await resumed(later, edited) is not None
    assert await journal_of(later).unused() == ()


async def test_a_folder_that_the_run_owns_is_restored_without_a_question(edited: Path) -> None:
    ctx = await checkpointed(edited)
    assert await ctx.checkpoints.resume(edited, owned=True) is not None
    assert (edited / "lines").read_text() == "0\n"
    shutil.rmtree(edited)
    assert await ctx.checkpoints.resume(edited) is not None
    assert (edited / "lines").read_text() == "0\n"


async def test_a_run_without_a_checkpoint_restores_nothing(edited: Path) -> None:
    assert await context(edited.parent).checkpoints.resume(edited, owned=True) is None
    assert (edited / "lines").read_text() == "0\n"

"""Checkpoints in skills: folder and journal agree wherever an attempt is lost."""

from pathlib import Path

import pytest

from skillfleet import Agent, NoAuth, RunContext
from skillfleet.errors import CapabilityUnavailableError
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.testing import LocalRunContext, run_to_end
from skillfleet_adapters.checkpoint import archive

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
    last = await ctx.checkpoints.fitting(path)
    if last is not None:
        await ctx.checkpoints.restore(path, last.id)

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
    assert found[0].position == LINES
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

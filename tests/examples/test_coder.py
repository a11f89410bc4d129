"""The coder: generated code over an overlay, and the question before the commit."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.coder import change
from skillfleet import LocalRunContext, NoAuth
from skillfleet.errors import StepFailed
from skillfleet.testing import run_skill
from tests.adapters.sandbox.conftest import open_folder, provider_of, require
from tests.examples.scripted_model import ModelServer, running_model, says

CODE = "text = open('a.md').read(); open('a.md', 'w').write(text.upper()); open('new.md', 'w')"
QUESTION = "Commit these changes? update a.md, create new.md"


@pytest.fixture(params=[CODE], ids=["upper"])
def model(request: pytest.FixtureRequest) -> Iterator[ModelServer]:
    with running_model(lambda _: says(request.param)) as server:
        yield server


@pytest.fixture
async def ctx(tmp_path: Path) -> AsyncIterator[LocalRunContext[NoAuth]]:
    require("bubblewrap")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.md").write_text("text")
    with open_folder() as folder:
        yield LocalRunContext(
            auth=NoAuth(),
            sandbox=provider_of("bubblewrap", folder),
            workspace=str(tmp_path / "files"),
        )


async def run(ctx: LocalRunContext[NoAuth], model: ModelServer) -> Any:
    return await run_skill(change, ctx, {"wish": "upper case", "url": model.url})


async def test_files_change_after_the_question(
    ctx: LocalRunContext[NoAuth], model: ModelServer, tmp_path: Path
) -> None:
    seen = []

    def agree(_: object) -> bool:
        seen.append((tmp_path / "files" / "a.md").read_text())
        return True

    ctx.answers[QUESTION] = agree
    assert await run(ctx, model) == "changed a.md, new.md"
    assert seen == ["text"], "nothing changes before the answer"
    assert (tmp_path / "files" / "a.md").read_text() == "TEXT"
    assert (tmp_path / "files" / "new.md").exists()


async def test_a_refusal_changes_nothing(
    ctx: LocalRunContext[NoAuth], model: ModelServer, tmp_path: Path
) -> None:
    ctx.answers[QUESTION] = False
    assert await run(ctx, model) == "discarded"
    assert (tmp_path / "files" / "a.md").read_text() == "text"
    assert not (tmp_path / "files" / "new.md").exists()


@pytest.mark.parametrize("model", ["open('/etc/shadow')"], indirect=True, ids=["fails"])
async def test_code_that_fails_fails_the_run(
    ctx: LocalRunContext[NoAuth], model: ModelServer
) -> None:
    with pytest.raises(StepFailed, match="the program failed"):
        await run(ctx, model)

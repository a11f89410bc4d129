"""The librarian in a unit test: no fleet, no Redis, no Celery."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from examples.librarian import Survey, files, librarian, read_file, survey
from skillfleet import CancelledByCaller, LocalRunContext, NoAuth, SkillError
from skillfleet.testing.in_process import InProcessA2AClient
from skillfleet.testing.runner import run_skill


@pytest.fixture
def ctx() -> LocalRunContext[NoAuth]:
    return LocalRunContext(auth=NoAuth(), a2a=InProcessA2AClient([librarian]))


async def test_a_survey_counts_text_files_and_skips_the_rest(
    ctx: LocalRunContext[NoAuth], library: Path
) -> None:
    found = await survey(ctx, folder=str(library))
    assert (found.files, found.lines) == (5, 3 + 4 + 7 + 1 + 0)
    assert {language.name: language.files for language in found.languages} == {
        "Markdown": 1,
        "Python": 2,
        "Text": 2,
    }
    assert [file.path for file in found.longest][:2] == [
        "src/with spaces | and bars.py",
        "src/main.py",
    ]
    assert {skip.path: skip.reason for skip in found.skipped} == {
        "link.md": "a link",
        "loop": "a link",
        "picture.bin": "binary",
    }


async def test_a_survey_finds_notes_with_their_places(
    ctx: LocalRunContext[NoAuth], library: Path
) -> None:
    found = await survey(ctx, folder=str(library))
    assert [(todo.path, todo.line, todo.text) for todo in found.todos] == [
        ("readme.md", 3, "TODO: write more"),
        ("src/main.py", 3, "FIXME(ann): handle errors"),
    ]


async def test_a_survey_writes_its_report_and_its_data(
    ctx: LocalRunContext[NoAuth], library: Path
) -> None:
    found = await survey(ctx, folder=str(library))
    streamed = "".join(event.payload["text"] for event in ctx.events if event.kind == "text_delta")
    assert ctx.artifacts["report.md"].decode() == streamed
    assert "with spaces \\| and bars.py | 7 |" in streamed
    assert Survey.model_validate_json(ctx.artifacts["survey.json"]) == found
    announced = [event.payload["name"] for event in ctx.events if event.kind == "artifact"]
    assert announced == ["report.md", "survey.json"]


async def test_a_survey_reports_its_progress(ctx: LocalRunContext[NoAuth], library: Path) -> None:
    await survey(ctx, folder=str(library))
    steps = [event.payload for event in ctx.events if event.kind == "progress"]
    assert steps[0] == {"message": "looking for text files"}
    assert [(step["current"], step["total"]) for step in steps[1:]] == [
        (number, 5) for number in range(1, 6)
    ]


async def test_two_surveys_of_a_folder_are_the_same(
    ctx: LocalRunContext[NoAuth], library: Path
) -> None:
    assert await survey(ctx, folder=str(library)) == await survey(ctx, folder=str(library))


async def test_the_result_stays_small_while_the_artifact_has_everything(
    ctx: LocalRunContext[NoAuth], tmp_path: Path
) -> None:
    for number in range(5):
        (tmp_path / f"{number}.py").write_text("# TODO: more\n" * 50)
    found = await survey(ctx, folder=str(tmp_path))
    assert (found.todo_count, len(found.todos)) == (250, 100)
    assert len(json.loads(ctx.artifacts["survey.json"])["todos"]) == 250


async def test_a_folder_without_text_files_gives_an_empty_survey(
    ctx: LocalRunContext[NoAuth], tmp_path: Path
) -> None:
    found = await survey(ctx, folder=str(tmp_path))
    assert (found.files, found.lines, found.longest) == (0, 0, [])
    assert b"0 text files" in ctx.artifacts["report.md"]


async def test_files_that_are_too_large_are_skipped_with_a_note(
    ctx: LocalRunContext[NoAuth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_BYTES", 1024 * 1024)
    (tmp_path / "large.txt").write_bytes(b"x" * (1024 * 1024 + 1))
    found = await survey(ctx, folder=str(tmp_path))
    assert [(skip.path, skip.reason) for skip in found.skipped] == [
        ("large.txt", "larger than 1 MiB")
    ]


@pytest.fixture
def nameless(tmp_path: Path) -> Path:
    """A file whose name is no UTF-8."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt"))
    try:
        path.write_text("x")
    except OSError:
        pytest.skip("this file system has no such names")
    return path


@pytest.mark.usefixtures("nameless")
async def test_names_that_are_no_text_and_pipes_are_skipped(
    ctx: LocalRunContext[NoAuth], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    found = await survey(ctx, folder=str(tmp_path))
    assert [(skip.path, skip.reason) for skip in found.skipped] == [
        ("pipe", "not a regular file"),
        ("\ufffd.txt", "its name is not UTF-8"),
    ]


async def test_a_folder_that_cannot_be_read_is_named(
    ctx: LocalRunContext[NoAuth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    real = os.scandir

    def refuse(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    # Root may read everything: the refusal is acted.
    monkeypatch.setattr(os, "scandir", refuse)
    found = await survey(ctx, folder=str(tmp_path))
    assert [(skip.path, skip.reason) for skip in found.skipped] == [
        ("locked", "unreadable: Permission denied")
    ]


async def test_a_file_that_vanishes_is_skipped_with_a_note(
    ctx: LocalRunContext[NoAuth], library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.read_bytes

    def vanish(path: Path) -> bytes:
        if path.name == "main.py":
            raise FileNotFoundError(2, "No such file or directory")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", vanish)
    found = await survey(ctx, folder=str(library))
    assert found.files == 4
    assert found.skipped[-1].path == "src/main.py"
    assert found.skipped[-1].reason == "unreadable: No such file or directory"


@pytest.mark.parametrize("path", ["../secret.txt", "/etc/hostname", "link/secret.txt"])
async def test_read_file_refuses_paths_outside_of_the_folder(
    ctx: LocalRunContext[NoAuth], tmp_path: Path, path: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(SkillError, match="outside") as caught:
        await read_file(ctx, folder=str(folder), path=path)
    assert caught.value.code == "outside_folder"


@pytest.mark.parametrize("folder", ["no/such/folder", "\0", "~unknown-user/x"])
async def test_a_folder_that_does_not_exist_is_an_error_that_names_it(
    ctx: LocalRunContext[NoAuth], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SkillError, match="there is no folder") as caught:
        await survey(ctx, folder=folder)
    assert caught.value.code == "no_such_folder"


async def test_a_survey_that_is_cancelled_in_the_middle_stops_there(
    ctx: LocalRunContext[NoAuth], library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, real = asyncio.get_running_loop(), Path.read_bytes

    def read_and_cancel(path: Path) -> bytes:
        loop.call_soon_threadsafe(ctx.cancel, "enough")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_and_cancel)
    with pytest.raises(CancelledByCaller, match="enough"):
        await run_skill(survey, ctx, {"folder": str(library)})
    assert not ctx.artifacts

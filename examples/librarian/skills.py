"""The librarian's skills, which depend on neither Celery nor Redis."""

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Annotated

from pydantic import Field

from examples.librarian import report
from examples.librarian.files import look_into, read_notes
from examples.librarian.models import FileNotes, FileSize, Language, Place, Skipped, Survey
from skillfleet import Agent, CancelledByCaller, RunContext, SkillError
from skillfleet.errors import RunFailed

IN_FLIGHT = 350
"""Number of files that are read at once, each in a child run."""

_MOST_IN_RESULT = 100
_PROGRESS_EVENTS = 100

librarian = Agent("librarian", description="Knows what is in a folder of text files")


@librarian.skill
async def read_file(ctx: RunContext, folder: str, path: str) -> FileNotes:
    """Read one text file of a folder and note its length, its language and its TODOs."""
    root = _existing(folder)
    if not (root / path).resolve().is_relative_to(root):
        raise SkillError(f"{path!r} lies outside of {folder!r}", code="outside_folder")
    await ctx.check_cancelled()
    try:
        return await asyncio.to_thread(read_notes, root, path)
    except OSError as error:
        raise SkillError(f"unreadable: {error.strerror}", code="unreadable") from error


@librarian.skill
async def survey(
    ctx: RunContext, folder: str, top: Annotated[int, Field(ge=0, le=1000)] = 10
) -> Survey:
    """Read all text files of a folder and report on them; `top` is how many longest to list."""
    root = _existing(folder)
    await ctx.emit_progress("looking for text files")
    paths, skipped = await _find_texts(ctx, root)
    files = await _read_all(ctx, root, paths, skipped)
    found = _summary(root, files, skipped, top)
    await _publish(ctx, found)
    # The complete lists are in survey.json: an artifact may be much larger than a result.
    return found.model_copy(
        update={
            "todos": found.todos[:_MOST_IN_RESULT],
            "skipped": found.skipped[:_MOST_IN_RESULT],
        }
    )


async def _find_texts(ctx: RunContext, root: Path) -> tuple[list[str], list[Skipped]]:
    texts: list[str] = []
    skipped: list[Skipped] = []
    folders = [root]
    while folders:
        await ctx.check_cancelled()
        found = await asyncio.to_thread(look_into, root, folders.pop())
        texts += found.texts
        skipped += found.skipped
        folders += found.folders
    return sorted(texts), skipped


async def _read_all(
    ctx: RunContext, root: Path, paths: list[str], skipped: list[Skipped]
) -> list[FileNotes]:
    """Call `read_file` once for each path, `IN_FLIGHT` at a time; failures become skipped files."""
    files: list[FileNotes] = []
    waiting = iter(paths)
    step = max(1, len(paths) // _PROGRESS_EVENTS)
    done = 0

    async def read_on() -> None:
        nonlocal done
        for path in waiting:
            args = {"folder": str(root), "path": path}
            try:
                reply = await ctx.call("librarian", "read_file", args=args)
                files.append(FileNotes.model_validate(reply.result))
            except RunFailed as error:
                skipped.append(Skipped(path=path, reason=str(error)))
            done += 1
            if done % step == 0 or done == len(paths):
                await ctx.emit_progress("reading files", current=done, total=len(paths))

    try:
        async with asyncio.TaskGroup() as readers:
            for _ in range(min(IN_FLIGHT, len(paths))):
                readers.create_task(read_on())
    except* CancelledByCaller:
        pass
    await ctx.check_cancelled()
    return files


def _summary(root: Path, files: list[FileNotes], skipped: list[Skipped], top: int) -> Survey:
    by_language: dict[str, list[FileNotes]] = defaultdict(list)
    for file in files:
        by_language[file.language].append(file)
    languages = [
        Language(name=name, files=len(group), lines=sum(file.lines for file in group))
        for name, group in by_language.items()
    ]
    todos = [
        Place(path=file.path, line=note.line, text=note.text)
        for file in sorted(files, key=lambda file: file.path)
        for note in file.notes
    ]
    longest = sorted(files, key=lambda file: (-file.lines, file.path))[:top]
    return Survey(
        folder=str(root),
        files=len(files),
        lines=sum(file.lines for file in files),
        size_bytes=sum(file.size_bytes for file in files),
        languages=sorted(languages, key=lambda language: (-language.lines, language.name)),
        longest=[FileSize(**file.model_dump(exclude={"notes"})) for file in longest],
        todo_count=len(todos),
        todos=todos,
        skipped_count=len(skipped),
        skipped=sorted(skipped, key=lambda skip: skip.path),
    )


async def _publish(ctx: RunContext, found: Survey) -> None:
    """Stream the report, and store report and data as artifacts."""
    page = ""
    for section in report.sections(found):
        await ctx.check_cancelled()
        await ctx.emit_text_delta(section)
        page += section
    for name, text, mime_type in (
        ("report.md", page, "text/markdown"),
        ("survey.json", found.model_dump_json(indent=2), "application/json"),
    ):
        await ctx.emit_artifact(await ctx.write_artifact(name, text.encode(), mime_type))


def _existing(folder: str) -> Path:
    try:
        root = Path(folder).expanduser().resolve()
        if root.is_dir():
            return root
    except (OSError, RuntimeError, ValueError):
        pass
    raise SkillError(f"there is no folder {folder!r}", code="no_such_folder")

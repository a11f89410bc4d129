"""Formatter of the survey as a Markdown report."""

from collections.abc import Iterator

from examples.librarian.models import Survey

_MOST_LISTED = 20


def sections(survey: Survey) -> Iterator[str]:
    """Yield the report in Markdown, section by section."""
    yield (
        f"# What is in {_plain(survey.folder)}\n\n"
        f"{survey.files:,} text files, {survey.lines:,} lines, {survey.size_bytes:,} bytes; "
        f"{survey.skipped_count:,} files skipped.\n\n"
    )
    if survey.languages:
        yield "## Languages\n\n| language | files | lines |\n|---|---:|---:|\n"
        for language in survey.languages[:_MOST_LISTED]:
            yield f"| {_cell(language.name)} | {language.files:,} | {language.lines:,} |\n"
        yield "\n## Longest files\n\n| file | lines |\n|---|---:|\n"
        for file in survey.longest:
            yield f"| {_cell(file.path)} | {file.lines:,} |\n"
    yield f"\n## TODO notes: {survey.todo_count:,}\n\n"
    for todo in survey.todos[:_MOST_LISTED]:
        yield f"- {_plain(todo.path)}:{todo.line}: {_plain(todo.text)}\n"
    if survey.todo_count > _MOST_LISTED:
        yield f"- and {survey.todo_count - _MOST_LISTED:,} more in survey.json\n"


def _plain(text: str) -> str:
    """Make a text one safe line: file names may contain anything."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")

"""Search and reading of text files: plain, blocking code that the skills run in threads."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from examples.librarian.models import FileNotes, Note, Skipped

MOST_BYTES = 4 * 1024 * 1024
_MOST_NOTES = 100
_MOST_NOTE_CHARS = 160
_SNIFFED_BYTES = 8192
_NOTE = re.compile(r"\b(?:TODO|FIXME)\s?[:(].*")

# Folders of generated files: version control, packages, caches.
_NOT_OURS = frozenset({".git", ".hg", ".svn", ".hypothesis", "__pycache__", "node_modules"})
_NOT_OURS_MARKS = ("CACHEDIR.TAG", "pyvenv.cfg")

_LANGUAGES = {
    ".c": "C",
    ".cpp": "C++",
    ".css": "CSS",
    ".go": "Go",
    ".h": "C",
    ".html": "HTML",
    ".java": "Java",
    ".js": "JavaScript",
    ".json": "JSON",
    ".lua": "Lua",
    ".md": "Markdown",
    ".py": "Python",
    ".rs": "Rust",
    ".sh": "Shell",
    ".sql": "SQL",
    ".svg": "SVG",
    ".toml": "TOML",
    ".ts": "TypeScript",
    ".txt": "Text",
    ".xml": "XML",
    ".yaml": "YAML",
    ".yml": "YAML",
}


@dataclass
class Found:
    """The content of one folder."""

    texts: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)


def look_into(root: Path, folder: Path) -> Found:
    """List text files, files to skip and folders to visit in `folder`, relative to `root`.

    Links are not followed, so there are no loops and no file counts twice.
    """
    found = Found()
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        found.skipped.append(Skipped(path=_shown(root, folder), reason=_why(error)))
        return found
    if folder != root and any(entry.name in _NOT_OURS_MARKS for entry in entries):
        return found
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _NOT_OURS:
                found.folders.append(path)
        elif reason := _reason_to_skip(entry):
            found.skipped.append(Skipped(path=_shown(root, path), reason=reason))
        else:
            found.texts.append(_shown(root, path))
    return found


def read_notes(root: Path, path: str) -> FileNotes:
    """Read a text file; invalid UTF-8 is replaced. Raises OSError."""
    data = (root / path).read_bytes()
    return FileNotes(
        path=path,
        language=language_of(path),
        lines=data.count(b"\n") + (not data.endswith(b"\n") and data != b""),
        size_bytes=len(data),
        notes=list(_notes(data.decode(errors="replace"))),
    )


def language_of(path: str) -> str:
    """Return the language for the file's extension, or an unknown extension itself."""
    extension = Path(path).suffix.lower()
    return _LANGUAGES.get(extension, extension or "other")


def _notes(text: str) -> Iterator[Note]:
    found = 0
    for number, line in enumerate(text.split("\n"), start=1):
        match = _NOTE.search(line)
        if match and found < _MOST_NOTES:
            found += 1
            yield Note(line=number, text=match[0].strip()[:_MOST_NOTE_CHARS])


def _reason_to_skip(entry: os.DirEntry[str]) -> str | None:
    try:
        entry.name.encode()
        if entry.is_symlink():
            return "a link"
        if not entry.is_file():
            return "not a regular file"
        if entry.stat().st_size > MOST_BYTES:
            return f"larger than {MOST_BYTES // 1024**2} MiB"
        with Path(entry.path).open("rb") as file:
            return "binary" if b"\0" in file.read(_SNIFFED_BYTES) else None
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except OSError as error:
        return _why(error)


def _shown(root: Path, path: Path) -> str:
    """Return the path below the root, as text that is valid in JSON."""
    return os.fsencode(path.relative_to(root).as_posix()).decode(errors="replace")


def _why(error: OSError) -> str:
    return f"unreadable: {error.strerror or error}"

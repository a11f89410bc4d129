"""What the librarian's skills return."""

from pydantic import BaseModel


class Note(BaseModel):
    """A TODO or FIXME, and the line it stands on (from 1)."""

    line: int
    text: str


class FileSize(BaseModel):
    """How large a text file is; `path` is relative to the folder."""

    path: str
    language: str
    lines: int
    size_bytes: int


class FileNotes(FileSize):
    """What the librarian wrote down about one file."""

    notes: list[Note] = []


class Skipped(BaseModel):
    """A file that was not read, and why."""

    path: str
    reason: str


class Language(BaseModel):
    """All files of one language."""

    name: str
    files: int
    lines: int


class Place(Note):
    """A note together with the file it was found in."""

    path: str


class Survey(BaseModel):
    """What is in a folder. `longest` has the longest files first, `languages` the largest."""

    folder: str
    files: int
    lines: int
    size_bytes: int
    languages: list[Language]
    longest: list[FileSize]
    todo_count: int
    todos: list[Place]
    skipped_count: int
    skipped: list[Skipped]

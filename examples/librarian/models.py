"""Results of the librarian's skills."""

from pydantic import BaseModel


class Note(BaseModel):
    """A TODO or FIXME, and its line number (from 1)."""

    line: int
    text: str


class FileSize(BaseModel):
    """The size of a text file; `path` is relative to the folder."""

    path: str
    language: str
    lines: int
    size_bytes: int


class FileNotes(FileSize):
    """The librarian's notes on one file."""

    notes: list[Note] = []


class Skipped(BaseModel):
    """A file that was not read, and the reason."""

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
    """The content of a folder. `longest` has the longest files first, `languages` the largest."""

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

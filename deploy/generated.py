"""Writer of generated files, and comparison with those on disk."""

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


def write(files: Mapping[Path, str], stale: Sequence[Path] = ()) -> None:
    """Write each file with its text, folders included, and delete the `stale` ones."""
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in stale:
        path.unlink()


@dataclass(frozen=True)
class GeneratedPart:
    """The part of a page between two marks; `page` is the page's name for the error."""

    page: str
    begin: str
    end: str

    def replaced(self, page_text: str, part: str) -> str:
        """Return the page with `part` between the marks; raises ValueError when one is missing."""
        before, begin, rest = page_text.partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not (begin and end):
            raise ValueError(f"{self.page} needs the lines {self.begin!r} and {self.end!r}")
        return f"{before}{begin}\n{part}\n{end}{after}"


def drift(files: Mapping[Path, str], stale: Sequence[Path] = ()) -> list[str]:
    """Compare with the files on disk; returns lines of unified diffs."""
    lines: list[str] = []
    for path, wanted in files.items():
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        if found != wanted:
            pair = (found.splitlines(), wanted.splitlines())
            lines += difflib.unified_diff(*pair, str(path), "generated", lineterm="", n=1)
    return lines + [f"{path}: nothing generates this file" for path in stale]


def write_or_check(
    files: Mapping[Path, str], *, check: bool, command: str, stale: Sequence[Path] = ()
) -> int:
    """Write the files, or with `check` only compare; returns the exit status."""
    if not check:
        write(files, stale)
        return 0
    difference = drift(files, stale)
    if difference:
        print("\n".join(difference[:80]), file=sys.stderr)
        print(f"Generated files are stale: run {command}", file=sys.stderr)
    return 1 if difference else 0

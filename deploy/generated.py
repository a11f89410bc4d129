"""Writer of generated files, and comparison with those on disk."""

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def write(files: Mapping[Path, str], stale: Sequence[Path] = ()) -> None:
    """Write each file with its text, folders included, and delete the `stale` ones."""
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in stale:
        path.unlink()


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

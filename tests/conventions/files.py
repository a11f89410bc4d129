"""Tracked text files, and the functions and docstrings in the Python ones."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = tuple(sorted(marker.parent for marker in ROOT.glob("*/skillfleet*/py.typed")))
_BINARY = {".png", ".lock", ".json", ".svg", ".tgz"}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module


@cache
def tracked() -> tuple[str, ...]:
    """The paths of all text files that are part of the repository, also new ones."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [Path(line) for line in listed.stdout.splitlines()]
    return tuple(
        str(path) for path in paths if path.suffix not in _BINARY and (ROOT / path).is_file()
    )


@cache
def text_of(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def product_files() -> list[Path]:
    """The Python and Lua files of all packages."""
    files = [path for package in PACKAGES for path in package.rglob("*")]
    return [path for path in files if path.suffix in {".py", ".lua"}]


def definitions(path: Path) -> Iterator[Definition]:
    """The module and all classes and functions in a Python file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, Definition):
            yield node

"""Write the tables of docs/settings.md from the settings classes of all packages.

`python -m deploy.settings_page` writes them, `--check` only compares. A settings class is any
class at a module's top level that inherits pydantic's `BaseSettings`, directly or not; the text
of each field is the docstring below it.
"""

import argparse
import ast
import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from deploy.generated import GeneratedPart, write_or_check

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "settings.md"
TABLES = GeneratedPart(
    "docs/settings.md",
    begin="<!-- settings: made by `python -m deploy.settings_page` -->\n",
    end="<!-- end of settings -->\n",
)
FIRST = ("ledger", "worker")
"""Folders whose classes come first; the others follow in alphabetical order."""
_NAMES: dict[Any, str] = {bool: "`true`, `false`", int: "integer", float: "number", Path: "path"}


@dataclass(frozen=True)
class Row:
    """One setting: its variable, the values it accepts, its default, and its text."""

    variable: str
    values: str
    default: str
    text: str


def settings_classes(root: Path = ROOT) -> list[type[BaseSettings]]:
    """Find all settings classes below the package folders, in the order of the page."""
    defined = [(path, node) for path in _sources(root) for node in _classes(path)]
    known, size = {"BaseSettings"}, 0
    while len(known) > size:
        size = len(known)
        known |= {node.name for _, node in defined if known & _bases(node)}
    return [_load(root, path, node.name) for path, node in defined if known & _bases(node)]


def _sources(root: Path) -> Iterator[Path]:
    folders = sorted(
        folder for folder in root.iterdir() if list(folder.glob("skillfleet*/py.typed"))
    )
    for folder in sorted(folders, key=lambda each: _rank(each.name)):
        yield from sorted(folder.glob("skillfleet*/**/*.py"))


def _rank(folder: str) -> int:
    return FIRST.index(folder) if folder in FIRST else len(FIRST)


def _classes(path: Path) -> list[ast.ClassDef]:
    tree = ast.parse(path.read_text("utf-8"))
    return [node for node in tree.body if isinstance(node, ast.ClassDef)]


def _bases(node: ast.ClassDef) -> set[str]:
    """Return the last names of a class's bases."""
    return {str(getattr(base, "attr", getattr(base, "id", ""))) for base in node.bases}


def _load(root: Path, path: Path, name: str) -> type[BaseSettings]:
    module = ".".join(path.relative_to(root).with_suffix("").parts[1:])
    loaded: type[BaseSettings] = getattr(importlib.import_module(module), name)
    return loaded


def rows(settings: type[BaseSettings]) -> list[Row]:
    """Describe the fields that the class itself declares, in their order.

    Raises ValueError for a field without a docstring.
    """
    texts = field_docstrings(settings)
    found = []
    for name, field in settings.model_fields.items():
        if name not in settings.__annotations__:
            continue
        if name not in texts:
            raise ValueError(f"{settings.__module__}.{settings.__name__}: {name} has no docstring")
        variable = field.validation_alias or f"{settings.model_config['env_prefix']}{name}"
        found.append(
            Row(str(variable).upper(), _values(field), _default(field.default), texts[name])
        )
    return found


def field_docstrings(settings: type[BaseSettings]) -> dict[str, str]:
    """Read the docstrings below the fields of a class, each joined into one line."""
    (node,) = ast.parse(inspect.getsource(settings)).body
    texts: dict[str, str] = {}
    body: Sequence[ast.stmt] = getattr(node, "body", ())
    for field, below in pairwise(body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                texts[name] = " ".join(text.split())
    return texts


def _values(field: FieldInfo) -> str:
    """Describe the accepted values: the alternatives of a Literal, or type and bounds."""
    kind = field.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = next(each for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    name = _NAMES.get(kind, "text")
    bounds = {
        sign: getattr(each, key)
        for each in field.metadata
        for key, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"))
        if hasattr(each, key)
    }
    limits = ", ".join(f"{sign} {_default(value)[1:-1]}" for sign, value in bounds.items())
    return f"{name} {limits}".strip()


def _default(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{value}`".lower()
    return f"`{int(value)}`" if isinstance(value, float) and value.is_integer() else f"`{value}`"


def tables(classes: Sequence[type[BaseSettings]]) -> str:
    """Format the classes as Markdown, a heading and a table for each."""
    lines: list[str] = []
    for settings in classes:
        found = rows(settings)
        if not found:
            continue
        title, _, more = inspect.cleandoc(settings.__doc__ or "").partition("\n")
        # Paragraphs with code are for readers of the code.
        note = [paragraph for paragraph in more.strip().split("\n\n") if "`" not in paragraph]
        lines += ["", f"## {title.rstrip('.')}", ""]
        lines += [" ".join(note[0].split()), ""] if note and note[0] else []
        lines += ["| variable | values | default | meaning |", "|---|---|---|---|"]
        for row in found:
            text = row.text.replace("|", "\\|")
            lines.append(f"| `{row.variable}` | {row.values} | {row.default} | {text} |")
    return "\n".join(lines).lstrip("\n") + "\n"


def render(page: str, classes: Sequence[type[BaseSettings]]) -> str:
    """Replace the page's tables; raises ValueError when a mark is missing."""
    return TABLES.replaced(page, tables(classes))


def main(arguments: list[str]) -> int:
    """Run the script; returns the exit status, 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(description="Write the tables of docs/settings.md.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on drift")
    options = parser.parse_args(arguments)
    text = render(PAGE.read_text("utf-8"), settings_classes())
    command = "python -m deploy.settings_page"
    return write_or_check({PAGE: text}, check=options.check, command=command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Whatever this project changes in Celery's objects and in process-wide tables is documented."""

import ast
import re
from collections.abc import Iterator

from tests.conventions.files import ROOT, text_of, tracked

SECTION = "## Adjusted instances of Celery"
CODE = ("engine/", "worker/", "telemetry/")
FOREIGN = ("celery", "kombu", "billiard", "sys")
# Variables that hold an object of Celery, kombu or billiard, where the project's code uses them.
OBJECTS = {
    *("app", "channel", "client", "consumer", "controller", "hub", "instance", "message"),
    *("request", "sender", "step", "sys"),
}
OURS = {"on_signal"}
"""Attributes of our own classes that are reached through one of Celery's objects."""


def rows() -> list[str]:
    """The rows of the documented table."""
    section = text_of("docs/internals.md").split(SECTION)[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ") and "/" in line]


def adjusted(path: str) -> Iterator[str]:
    """The names of what a file adjusts: attributes, tables, commands and registries."""
    tree = ast.parse(text_of(path))
    imported = set(_imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            yield from _stored(node, imported)
        elif isinstance(node, ast.FunctionDef):
            decorators = (each for each in node.decorator_list if isinstance(each, ast.Call))
            if any(_names(each.func) == ["control_command"] for each in decorators):
                yield node.name
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of_foreign = imported.intersection(_names(node.func.value))
            if (node.func.attr == "register" and of_foreign) or (
                node.func.attr == "addFilter" and "_CELERYS" in text_of(path)
            ):
                yield node.func.attr


def _stored(node: ast.Attribute | ast.Subscript, imported: set[str]) -> Iterator[str]:
    names = _names(node.value)
    if isinstance(node, ast.Attribute):
        if (OBJECTS | imported).intersection(names) and node.attr not in OURS:
            yield node.attr
    elif imported.intersection(names) or OBJECTS.intersection(names[1:]):
        yield names[-1]


def _imported(tree: ast.Module) -> Iterator[str]:
    """The names that a module imports from foreign packages, or gets by calling their functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(FOREIGN):
            yield from (alias.asname or alias.name for alias in node.names)
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and _names(node.value.func)[:1] in [[package] for package in FOREIGN]
        ):
            yield from (name for target in node.targets for name in _names(target)[:1])


def _names(node: ast.AST) -> list[str]:
    """The names in `a.b.c`, from the left."""
    return [
        each.id if isinstance(each, ast.Name) else each.attr
        for each in list(ast.walk(node))[::-1]
        if isinstance(each, ast.Name | ast.Attribute)
    ]


def test_every_adjusted_instance_is_in_the_table_of_the_documentation() -> None:
    found = {
        (path, name)
        for path in tracked()
        if path.startswith(CODE) and path.endswith(".py")
        for name in adjusted(path)
    }
    assert len(found) >= 15, "the search found less than there is"
    table = rows()
    missing = [
        f"{path}: {name}"
        for path, name in sorted(found)
        if not any(path in row and re.search(rf"\b{re.escape(name)}\b", row) for row in table)
    ]
    assert not missing, f"add these to docs/internals.md, {SECTION!r}: {missing}"


def test_the_table_names_files_that_exist_and_a_test_in_each_row() -> None:
    for row in rows():
        paths = re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", row)
        assert [path for path in paths if not (ROOT / path).is_file()] == [], row
        assert any(path.startswith("tests/") for path in paths), row

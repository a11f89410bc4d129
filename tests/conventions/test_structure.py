"""The bounds of CONTRIBUTING.md on files, functions and docstrings of the packages."""

import ast
import re
from pathlib import Path

from tests.conventions.files import PACKAGES, ROOT, definitions, product_files

MOST_LINES_OF_A_FILE = 600
MOST_LINES_OF_A_FUNCTION = 60
HEADLESS = re.compile(r"(What|Whether|How|Why|Where|Who|When|Which|That)\b")


def python_files() -> list[Path]:
    return [path for path in product_files() if path.suffix == ".py"]


def test_all_packages_are_examined() -> None:
    names = {package.name for package in PACKAGES}
    assert {"skillfleet", "skillfleet_ledger", "skillfleet_worker", "skillfleet_cli"} <= names
    assert len(python_files()) > 150


def test_no_file_is_longer_than_600_lines() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in product_files()}
    long = {str(path): count for path, count in lengths.items() if count > MOST_LINES_OF_A_FILE}
    assert not long


def test_no_function_is_longer_than_60_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in python_files()
        for node in definitions(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    ]
    assert not long


def headless(path: Path) -> list[str]:
    """The first lines of docstrings in a file that name neither a thing nor an action."""
    lines = [(ast.get_docstring(node) or "").partition("\n")[0] for node in definitions(path)]
    return [line for line in lines if HEADLESS.match(line)]


def test_a_docstrings_first_line_names_the_thing_or_the_action() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line}" for path in python_files() for line in headless(path)
    ]
    assert not found, "\n".join(found)


def test_a_headless_docstring_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""What it is."""\n\ndef f():\n    """Return whether it is."""\n')
    assert headless(module) == ["What it is."]

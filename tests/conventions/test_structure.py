"""The bounds of CONTRIBUTING.md on files, functions and docstrings of the packages."""

import ast
from pathlib import Path

from tests.conventions.files import PACKAGES, ROOT, definitions, product_files

MOST_LINES_OF_A_FILE = 600
MOST_LINES_OF_A_FUNCTION = 60


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

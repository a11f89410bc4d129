"""Type checkers accept right code and report wrong code."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def mypy(file: Path, cache: Path) -> str:
    """Return mypy's report in strict mode, in which an unused ignore is an error; "" for none."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
    done = subprocess.run(
        [*command, "--cache-dir", str(cache), str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def test_right_code_passes(cache: Path) -> None:
    assert mypy(HERE / "typing_right.py", cache) == ""


def test_each_mistake_is_reported_where_it_is_made(cache: Path) -> None:
    assert mypy(HERE / "typing_wrong.py", cache) == ""


def test_a_mistake_that_went_unreported_would_be_noticed(cache: Path, tmp_path: Path) -> None:
    wrong = (HERE / "typing_wrong.py").read_text()
    repaired = tmp_path / "repaired.py"
    repaired.write_text(wrong.replace("survey(ctx, folder=3)", 'survey(ctx, folder="x")'))
    assert 'Unused "type: ignore" comment' in mypy(repaired, cache)

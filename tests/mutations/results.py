"""The stored results of mutants, the reasons of survivors, and the scripts that lack results."""

import json
import tomllib
from pathlib import Path

from tests.mutations.mutants import Mutant

FOLDER = Path(__file__).parent
RESULT, REASONS = FOLDER / "result.json", FOLDER / "reasons.toml"
PENDING = FOLDER / "pending.toml"


def reasons() -> dict[str, str]:
    """Return the reasons why mutants may survive, by id."""
    found: dict[str, str] = tomllib.loads(REASONS.read_text())
    return found


def pending() -> dict[str, str]:
    """Return the scripts whose mutants were not all played yet, with the reason."""
    found: dict[str, str] = tomllib.loads(PENDING.read_text())
    return found


def results() -> dict[str, str | None]:
    """Return the test that killed each played mutant, by id."""
    found: dict[str, str | None] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    return found


def write(every: list[Mutant], known: dict[str, str | None]) -> None:
    """The results of today's mutants, in the order of the scripts."""
    lines = {mutant.id: known[mutant.id] for mutant in every if mutant.id in known}
    RESULT.write_text(json.dumps(lines, indent=1) + "\n")

"""Results of all rounds: their JSON file and their table."""

import statistics
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.table import Table

from benchmarks.measures import MEASURES, Measure


class Spread(BaseModel):
    """The figures of one measure in all rounds."""

    median: float
    least: float
    greatest: float
    rounds: list[float]

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """From the figures of the rounds, in order."""
        rounds = [round(value, 6) for value in values]
        middle = round(statistics.median(values), 6)
        return cls(median=middle, least=min(rounds), greatest=max(rounds), rounds=rounds)


class Results(BaseModel):
    """One call of the benchmark: where, how, and `figures[system][measure]`."""

    machine: dict[str, Any]
    load_1m: list[float]
    sizes: dict[str, Any]
    versions: dict[str, dict[str, str]]
    slots: dict[str, dict[str, int | None]]
    figures: dict[str, dict[str, Spread]]

    @classmethod
    def read(cls, path: Path) -> "Results":
        """From a file."""
        return cls.model_validate_json(path.read_text())

    def write(self, path: Path) -> None:
        """To a file, for people to read too."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n")

    def of(self, system: str, measure: str) -> Spread | None:
        """One figure; None where the system has none."""
        return self.figures[system].get(measure)

    def best_peer(self, measure: Measure) -> str | None:
        """Return the system with the best median that is no variant of skillfleet."""
        found = {
            name: spread.median
            for name in self.figures
            if self._comparable(name, measure) and (spread := self.of(name, measure.name))
        }
        choose = max if measure.better == "more" else min
        return choose(found, key=lambda name: found[name]) if found else None

    def _comparable(self, name: str, measure: Measure) -> bool:
        """A peer; and with as many sleeping jobs as ours, where those are measured."""
        sleepers = (self.slots.get(each, {}).get("sleepers") for each in (name, "skillfleet"))
        alike = not measure.name.startswith("sleep_") or len(set(sleepers)) == 1
        return alike and not name.startswith("skillfleet") and not name.endswith("-bare")

    def against_best(self, measure: Measure) -> float | None:
        """Return how many times better skillfleet is than the best peer; below 1 it is behind."""
        peer, ours = self.best_peer(measure), self.figures.get("skillfleet", {}).get(measure.name)
        theirs = self.of(peer, measure.name) if peer else None
        if ours is None or theirs is None or not ours.median or not theirs.median:
            return None
        ratio = ours.median / theirs.median
        return ratio if measure.better == "more" else 1 / ratio


def number(value: float) -> str:
    """Format a number with three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(spread: Spread | None) -> str:
    """Format the median with the range of the rounds."""
    if spread is None:
        return "-"
    if len(spread.rounds) == 1:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.least)}-{number(spread.greatest)})"


def rows(results: Results) -> list[list[str]]:
    """For each measure that anyone has: title, unit, a cell a system, the ratio."""
    found = []
    for measure in MEASURES:
        cells = [cell(results.of(name, measure.name)) for name in results.figures]
        ratio = results.against_best(measure)
        if any(each != "-" for each in cells):
            last = "-" if ratio is None else f"{ratio:.2f}"
            found.append([measure.title, measure.unit, *cells, last])
    return found


def table(results: Results) -> Table:
    """For the terminal: a column a system."""
    shown = Table(title="median (least-greatest of the rounds)", show_lines=True)
    shown.add_column("measure")
    shown.add_column("unit")
    for name in results.figures:
        shown.add_column(name, justify="right")
    shown.add_column("times the best peer", justify="right")
    for row in rows(results):
        shown.add_row(*row)
    return shown

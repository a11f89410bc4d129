"""The benchmark's harness, at sizes that measure nothing: it must run, count and report."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import goals
from benchmarks.measures import MEASURES
from benchmarks.page import figures, renew
from benchmarks.results import Results, Spread, cell
from benchmarks.venvs import ROOT
from tests.support.forms import forms

TINY = {
    "jobs": 100,
    "latencies": 2,
    "events": 10,
    "cancels": 1,
    "sleepers": 5,
    "seconds": 0.1,
    "queued": 10,
    "held": 5,
}
OURS_ALONE = {"cancel_p50_ms", "submit_sync_cpu_ms", "running_stream_bytes"}


@pytest.fixture
def results() -> Results:
    """Two systems, one measure better in ours, one worse, one that only ours has."""
    return Results(
        machine={"at": "2026-01-02T03:04:05", "processor": "p", "cores": 2, "python": "3.11.1"},
        load_1m=[1.0, 2.0],
        sizes={},
        versions={"celery": {"celery": "5.7.0"}},
        slots={},
        figures={
            "skillfleet": {
                "drain_rate": Spread.of([30.0, 10.0, 20.0]),
                "idle_mib": Spread.of([50.0]),
                "cancel_p50_ms": Spread.of([1.0]),
            },
            "celery-threads": {
                "drain_rate": Spread.of([10.0]),
                "idle_mib": Spread.of([25.0]),
            },
        },
    )


@pytest.mark.parametrize("rounds", forms(short=[1], thorough=[2]))
def test_the_harness_measures_skillfleet_and_plain_celery(tmp_path: Path, rounds: int) -> None:
    output = tmp_path / "figures.json"
    sizes = TINY | {"rounds": rounds}
    options = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks", "--output", str(output), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    found = Results.read(output)
    of_both = {each.name for each in MEASURES if not each.name.startswith("artifact_")} - OURS_ALONE
    assert set(found.figures["celery-threads"]) == of_both
    assert set(found.figures["skillfleet"]) == {each.name for each in MEASURES}
    assert {"drain_rate", "result_rate"} < set(found.figures["skillfleet-quiet"])
    assert "events_1" not in found.figures["skillfleet-quiet"]
    for figures_of in found.figures.values():
        assert all(len(spread.rounds) == rounds for spread in figures_of.values())
    assert found.figures["celery-threads"]["commands"].median > 10
    assert found.figures["skillfleet"]["scripts"].median > 0.1  # simultaneous calls share one


def test_a_spread_has_the_median_and_the_range_of_the_rounds() -> None:
    spread = Spread.of([3.0, 1.0, 2.0])
    assert (spread.median, spread.least, spread.greatest) == (2.0, 1.0, 3.0)
    assert cell(spread) == "2.00 (1.00-3.00)"
    assert cell(Spread.of([1234.5])) == "1,234"
    assert cell(None) == "-"


def test_times_better_is_above_one_where_ours_is_better_whichever_way_is_good(
    results: Results,
) -> None:
    ratios = {each.name: results.against_best(each) for each in MEASURES}
    assert ratios["drain_rate"] == 2.0
    assert ratios["idle_mib"] == 0.5
    assert ratios["cancel_p50_ms"] is None


def test_the_page_names_each_loss_and_keeps_what_stands_around_the_figures(
    results: Results, tmp_path: Path
) -> None:
    source = ROOT / "benchmarks" / "results" / "peers.json"
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nafter\n")
    renew(results, source, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    losses = text.partition("Measures in which a peer is ahead")[2]
    assert "idle worker's memory" in losses
    assert "no-ops, queue drained" not in losses


def test_the_committed_page_follows_the_committed_figures() -> None:
    source = ROOT / "benchmarks" / "results" / "peers.json"
    page = (ROOT / "docs" / "performance.md").read_text()
    shown = re.search(r"<!-- figures: begin -->\n(.*)\n<!-- figures: end -->", page, re.DOTALL)
    assert shown is not None
    assert shown[1] == figures(Results.read(source), source)
    assert json.loads(source.read_text())["sizes"]["jobs"] >= 1000


def test_a_goal_compares_round_by_round_and_gives_the_reason_where_it_is_missed(
    results: Results,
) -> None:
    results.figures["skillfleet"]["drain_rate"] = Spread.of([20.0, 30.0, 40.0])
    results.figures["skillfleet-quiet"] = {"drain_rate": Spread.of([20.0, 60.0, 40.0])}
    results.figures["dramatiq-bare"] = {"drain_rate": Spread.of([20.0, 20.0, 20.0])}
    shown = goals.table(results)
    assert "| default configuration over quiet, drained no-ops | ≥ 0.85 | 1.00 (0.50-1.00)" in shown
    assert "drained no-ops | ≥ 2.00 | 1.50 (1.00-2.00) | no |" in shown
    assert "- default configuration over dramatiq bare, drained no-ops: a worker is one" in shown
    assert "- default configuration over quiet" not in shown
    assert "artifact" not in shown, "it was not measured"

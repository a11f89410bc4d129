"""`python -m benchmarks.page FILE`: generates the figures of docs/performance.md from the JSON."""

import json
import sys
from pathlib import Path

from benchmarks import goals
from benchmarks.chart import draw
from benchmarks.measures import MEASURES
from benchmarks.results import Results, cell, rows
from benchmarks.venvs import ROOT
from deploy.generated import GeneratedPart

PAGE = ROOT / "docs" / "performance.md"
_FIGURES = GeneratedPart(
    "docs/performance.md", begin="<!-- figures: begin -->", end="<!-- figures: end -->"
)


def renew(results: Results, source: Path, page: Path = PAGE) -> None:
    """Replace the text between the two markers."""
    page.write_text(_FIGURES.replaced(page.read_text(), figures(results, source)))


def figures(results: Results, source: Path) -> str:
    """Return the generated part: chart, machine, goals, tables, losses."""
    name = source.resolve().relative_to(ROOT)
    chart = name.with_suffix(".svg")
    return "\n\n".join(
        [
            f"![The main figures as bars](../{chart})",
            _where(results, str(name)),
            goals.table(results),
            _grid(results),
            _losses(results),
            _versions(results),
        ]
    )


def _where(results: Results, name: str) -> str:
    machine = results.machine
    return (
        f"From [`{name}`](../{name}): {machine['at'][:10]}, {machine['processor']}, "
        f"{machine['cores']} cores, Python {machine['python']}, "
        f"load {min(results.load_1m)} to {max(results.load_1m)}, "
        f"{_rounds(results)} interleaved rounds. Median (least-greatest). The last column says "
        "how many times better skillfleet is than the best peer: below 1, it is behind."
    )


def _rounds(results: Results) -> int:
    return len(next(iter(next(iter(results.figures.values())).values())).rounds)


def _grid(results: Results) -> str:
    names = list(results.figures)
    head = ["measure", "unit", *names, "x best peer"]
    align = ["---", "---", *["--:"] * (len(names) + 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, align, *rows(results)))


def _losses(results: Results) -> str:
    lines = ["Measures in which a peer is ahead:", ""]
    for measure in MEASURES:
        ratio, peer = results.against_best(measure), results.best_peer(measure)
        if ratio is None or peer is None or ratio >= 1:
            continue
        ours, theirs = (results.of(name, measure.name) for name in ("skillfleet", peer))
        unit = f" {measure.unit}" if measure.unit else ""
        lines.append(
            f"- {measure.title}: skillfleet {cell(ours)}{unit}, {peer} {cell(theirs)}{unit}"
        )
    return "\n".join(lines)


def _versions(results: Results) -> str:
    every = (
        f"{peer} ({', '.join(f'{name} {version}' for name, version in found.items())})"
        for peer, found in results.versions.items()
    )
    return f"Versions: {'; '.join(every)}. Sizes: `{json.dumps(results.sizes)}`."


if __name__ == "__main__":
    path = Path(sys.argv[1])
    found = Results.read(path)
    draw(found, path.with_suffix(".svg"))
    renew(found, path)

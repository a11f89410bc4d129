"""Chart of the main measures, a panel each, as one SVG file."""

from pathlib import Path
from xml.sax.saxutils import escape

from benchmarks.measures import MEASURES, Measure
from benchmarks.results import Results, number

SHOWN = (
    "drain_rate",
    "drain_cpu_ms",
    "submit_cpu_ms",
    "latency_p50_ms",
    "sleep_ratio",
    "sleep_peak_mib",
    "events_1",
    "cancel_p50_ms",
)
_COLUMNS, _WIDTH, _BAR, _LABEL, _HEAD, _GAP = 2, 470, 20, 120, 50, 24
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 14px }
  .note { fill: #57606a }
  .ours { fill: #0b7285 } .peer { fill: #ced4da }
  .range { stroke: #495057; stroke-width: 1.5 }
"""


def draw(results: Results, path: Path) -> None:
    """Write the chart. A thin line shows the range of the rounds."""
    names = list(results.figures)
    height = _HEAD + _BAR * len(names) + _GAP
    shown = [measure for measure in MEASURES if measure.name in SHOWN]
    total = height * -(-len(shown) // _COLUMNS)
    panels = [
        f'<g transform="translate({index % _COLUMNS * _WIDTH}, {index // _COLUMNS * height})">'
        f"{_panel(results, measure)}</g>"
        for index, measure in enumerate(shown)
    ]
    size = f'width="{_COLUMNS * _WIDTH}" height="{total}"'
    box = f'viewBox="0 0 {_COLUMNS * _WIDTH} {total}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box}>',
        f"<style>{_STYLE}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        *panels,
        "</svg>",
    ]
    path.write_text("\n".join(parts) + "\n")


def _panel(results: Results, measure: Measure) -> str:
    unit = f", {measure.unit}" if measure.unit else ""
    lines = [
        f'<text class="title" x="12" y="24">{escape(measure.title + unit)}</text>',
        f'<text class="note" x="12" y="40">{measure.better} is better</text>',
    ]
    spreads = {name: results.of(name, measure.name) for name in results.figures}
    longest = max((spread.greatest for spread in spreads.values() if spread), default=1.0) or 1.0
    scale = (_WIDTH - _LABEL - 90) / longest
    for index, (name, spread) in enumerate(spreads.items()):
        top = _HEAD + index * _BAR
        middle = top + _BAR / 2
        lines.append(f'<text x="{_LABEL - 6}" y="{middle + 4}" text-anchor="end">{name}</text>')
        if spread is None:
            lines.append(f'<text class="note" x="{_LABEL}" y="{middle + 4}">has none</text>')
            continue
        kind = "ours" if name.startswith("skillfleet") else "peer"
        size = f'width="{spread.median * scale:.1f}" height="{_BAR - 6}"'
        ends = (
            f'x1="{_LABEL + spread.least * scale:.1f}" x2="{_LABEL + spread.greatest * scale:.1f}"'
        )
        right = _LABEL + spread.greatest * scale + 6
        lines += [
            f'<rect class="{kind}" x="{_LABEL}" y="{top + 3}" {size}/>',
            f'<line class="range" {ends} y1="{middle}" y2="{middle}"/>',
            f'<text x="{right:.1f}" y="{middle + 4}">{number(spread.median)}</text>',
        ]
    return "\n".join(lines)

"""Write the values tables of helm/README.md from the `# --` comments of helm/values.yaml.

`python -m deploy.chart_readme` writes them, `--check` only compares.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from deploy.generated import GeneratedPart, write_or_check

CHART = Path(__file__).parent.parent / "helm"
TABLES = GeneratedPart(
    "helm/README.md",
    begin="<!-- values: made by `python -m deploy.chart_readme` -->\n",
    end="<!-- end of values -->\n",
)
MARK = "# -- "


@dataclass(frozen=True)
class Value:
    """One documented key: its dotted path, its default as JSON, and its comment."""

    path: str
    default: str
    text: str


def comment_above(lines: list[str], line: int) -> str | None:
    """Return the `# --` comment right above a line, without its marks; None without one."""
    block: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        block.insert(0, lines[line].strip())
        if block[0].startswith(MARK):
            return " ".join([block[0][len(MARK) :], *(text.lstrip("# ") for text in block[1:])])
    return None


def read_values(text: str) -> list[Value]:
    """Read all documented keys in their order.

    Raises ValueError for a key without a comment, on itself or on the keys below it.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return list(_walk(root, text.splitlines(), ""))


def _walk(node: yaml.Node | None, lines: list[str], prefix: str) -> Iterator[Value]:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("values.yaml is not a mapping")  # noqa: TRY004 - the text is wrong
    for key, item in node.value:
        path = f"{prefix}{key.value}"
        comment = comment_above(lines, key.start_mark.line)
        if comment is not None:
            yield Value(path, _default(item), comment)
        elif isinstance(item, yaml.MappingNode) and item.value:
            yield from _walk(item, lines, f"{path}.")
        else:
            raise ValueError(f"values.yaml: {path} has no '{MARK.strip()}' comment")


def _default(node: yaml.Node) -> str:
    value = yaml.safe_load(yaml.serialize(node))
    return json.dumps(value)


def tables(values: list[Value]) -> str:
    """Format the values as Markdown, one table per top-level key."""
    lines: list[str] = []
    group = None
    for value in values:
        top = value.path.split(".")[0] if "." in value.path else "General"
        if top != group:
            group = top
            lines += ["", f"### {group}", "", "| key | default | meaning |", "|---|---|---|"]
        text = value.text.replace("|", "\\|")
        lines.append(f"| `{value.path}` | `{value.default}` | {text} |")
    return "\n".join(lines).lstrip("\n") + "\n"


def render(readme: str, values: str) -> str:
    """Replace the tables of the README.

    Raises ValueError when one of its two marks is missing.
    """
    return TABLES.replaced(readme, tables(read_values(values)))


def main(arguments: list[str]) -> int:
    """Run the script; returns the exit status, 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(description="Write the values tables of helm/README.md.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on drift")
    options = parser.parse_args(arguments)
    readme = CHART / "README.md"
    text = render(readme.read_text("utf-8"), (CHART / "values.yaml").read_text("utf-8"))
    command = "python -m deploy.chart_readme"
    return write_or_check({readme: text}, check=options.check, command=command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

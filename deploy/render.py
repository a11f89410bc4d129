"""Render deploy/k8s from the chart: a base that both overlays share, and what each adds.

`python -m deploy.render` writes the files, `--check` only compares them with the chart's output.
`--out` and `--namespace` render the same objects elsewhere and for another namespace.
Needs helm-python-sdk (the real Helm engine) and PyYAML.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

from deploy.generated import write_or_check

Manifest = dict[str, Any]

ROOT = Path(__file__).parent
CHART = ROOT.parent / "helm"
MANIFESTS = ROOT / "k8s"
OVERLAYS = ("small", "production")
RELEASE = "skillfleet"
HEADER = "# Rendered from the chart by `python -m deploy.render`; do not edit.\n"
# Helm's own labels: nothing here is Helm's.
HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")


class _Dumper(yaml.SafeDumper):
    """YAML as people write it: long texts as blocks."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def render_chart(values: Mapping[str, Any], release: str, namespace: str) -> list[Manifest]:
    """The chart's objects for these values, hooks left out.

    Raises helm_python's HelmError when the values are refused.
    """
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(dict(values), name=release, namespace=namespace)
    manifests = [
        document
        for path, text in sorted(texts.items())
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]
    return [manifest for manifest in manifests if not is_hook(manifest)]


def is_hook(manifest: Manifest) -> bool:
    """True for what Helm runs beside a release, such as its test pod and that pod's policy."""
    labels = manifest["metadata"].get("labels", {})
    return bool(labels.get("app.kubernetes.io/component") == "test")


def without_helm_labels(value: Any) -> Any:
    """A copy without the labels that only mean something to Helm, at any depth."""
    if isinstance(value, dict):
        kept = ((key, item) for key, item in value.items() if key not in HELM_LABELS)
        return {key: without_helm_labels(item) for key, item in kept}
    if isinstance(value, list):
        return [without_helm_labels(item) for item in value]
    return value


def part_of(manifest: Manifest) -> str:
    """The file an object belongs to: its part, and its pool for what each pool has."""
    labels = manifest["metadata"]["labels"]
    pool = labels.get("skillfleet/pool")
    component = str(labels["app.kubernetes.io/component"])
    return f"{component}-{pool}" if pool else component


def dump(manifests: Iterable[Manifest]) -> str:
    """The objects as one YAML stream."""
    return HEADER + yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=1000)


def folder_files(
    folder: Path, manifests: Iterable[Manifest], resources: list[str], namespace: str
) -> dict[Path, str]:
    """A kustomize folder: one file a part, and the kustomization that lists them all."""
    parts: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        parts.setdefault(part_of(manifest), []).append(manifest)
    files = {folder / f"{part}.yaml": dump(objects) for part, objects in sorted(parts.items())}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": resources + sorted(path.name for path in files),
    }
    return {folder / "kustomization.yaml": dump([kustomization]), **files}


def namespace_object(name: str) -> Manifest:
    """The namespace, which refuses any pod outside the restricted Pod Security Standard."""
    labels = {
        "app.kubernetes.io/component": "namespace",
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/warn": "restricted",
    }
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def render_all(out: Path, namespace: str) -> dict[Path, str]:
    """Every generated file of deploy/k8s, by path under `out`."""
    rendered: dict[str, list[Manifest]] = {}
    for overlay in OVERLAYS:
        values = yaml.safe_load((MANIFESTS / "values" / f"{overlay}.yaml").read_text("utf-8"))
        rendered[overlay] = without_helm_labels(render_chart(values, RELEASE, namespace))
    first, *others = rendered.values()
    shared = [item for item in first if all(item in other for other in others)]
    base = [namespace_object(namespace), *shared]
    files = folder_files(out / "base", base, [], namespace)
    for overlay, manifests in rendered.items():
        own = [item for item in manifests if item not in shared]
        folder = out / "overlays" / overlay
        files |= folder_files(folder, own, ["../../base"], namespace)
    return files


def stale_files(out: Path, files: Mapping[Path, str]) -> list[Path]:
    """Manifests on disk that nothing renders any more."""
    found = [*out.glob("base/*.yaml"), *out.glob("overlays/*/*.yaml")]
    return sorted(path for path in found if path not in files)


def main(arguments: list[str]) -> int:
    """Run the script; returns the exit status, 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(description="Render deploy/k8s from the chart.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on drift")
    parser.add_argument("--namespace", default="skillfleet", help="namespace of all objects")
    parser.add_argument("--out", type=Path, default=MANIFESTS, help="folder to write to")
    options = parser.parse_args(arguments)
    files = render_all(options.out, options.namespace)
    stale = stale_files(options.out, files)
    command = "python -m deploy.render"
    return write_or_check(files, check=options.check, command=command, stale=stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

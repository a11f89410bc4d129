"""Render deploy/k8s from the chart: a base that works alone, and the changes of each overlay.

`python -m deploy.render` writes the files, `--check` only compares them with the chart's output.
`--out` and `--namespace` render the same objects to another folder and for another namespace.
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
from deploy.json_patch import json_patch

Manifest = dict[str, Any]

ROOT = Path(__file__).parent
CHART = ROOT.parent / "helm"
MANIFESTS = ROOT / "k8s"
OVERLAYS = ("small", "production")
RELEASE = "skillfleet"
HEADER = "# Rendered from the chart by `python -m deploy.render`; do not edit.\n"
# Helm's own labels: Helm does not manage these objects.
HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")


class _Dumper(yaml.SafeDumper):
    """Dumper of readable YAML: long texts as blocks."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def render_chart(values: Mapping[str, Any], release: str, namespace: str) -> list[Manifest]:
    """Render the chart's objects for these values, without hooks.

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
    """Return True for hooks, such as the test pod and its policy."""
    labels = manifest["metadata"].get("labels", {})
    return bool(labels.get("app.kubernetes.io/component") == "test")


def without_helm_labels(value: Any) -> Any:
    """Copy an object without Helm's own labels, at any depth."""
    if isinstance(value, dict):
        kept = ((key, item) for key, item in value.items() if key not in HELM_LABELS)
        return {key: without_helm_labels(item) for key, item in kept}
    if isinstance(value, list):
        return [without_helm_labels(item) for item in value]
    return value


def identity(manifest: Manifest) -> tuple[str, str]:
    """Return an object's kind and name."""
    return manifest["kind"], manifest["metadata"]["name"]


def part_of(manifest: Manifest) -> str:
    """Return the file of an object: its component, with its pool for a worker."""
    labels = manifest["metadata"]["labels"]
    pool = labels.get("skillfleet/pool")
    component = str(labels["app.kubernetes.io/component"])
    return f"{component}-{pool}" if pool else component


def dump(documents: Iterable[Any]) -> str:
    """Dump the documents as one YAML stream."""
    return HEADER + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=1000)


def folder_files(folder: Path, manifests: Iterable[Manifest]) -> dict[Path, str]:
    """Build one file per component, with all its objects."""
    parts: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        parts.setdefault(part_of(manifest), []).append(manifest)
    return {folder / f"{part}.yaml": dump(objects) for part, objects in sorted(parts.items())}


def kustomization(namespace: str, resources: list[str], patches: list[Manifest]) -> str:
    """Build a kustomization.yaml."""
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    body: Manifest = {**head, "namespace": namespace, "resources": resources}
    return dump([{**body, "patches": patches} if patches else body])


def base_files(folder: Path, manifests: list[Manifest], namespace: str) -> dict[Path, str]:
    """Build the base: the namespace and all objects."""
    files = folder_files(folder, [namespace_object(namespace), *manifests])
    resources = sorted(path.name for path in files)
    return {folder / "kustomization.yaml": kustomization(namespace, resources, []), **files}


def overlay_files(
    folder: Path, manifests: list[Manifest], base: list[Manifest], namespace: str
) -> dict[Path, str]:
    """Build an overlay: the objects that the base lacks, and a patch for each that differs.

    Raises ValueError when the base has an object that the overlay's values do not make.
    """
    under = {identity(item): item for item in base}
    if surplus := under.keys() - {identity(item) for item in manifests}:
        raise ValueError(f"{folder.name}: the base makes {sorted(surplus)}, the overlay does not")
    files = folder_files(folder, [item for item in manifests if identity(item) not in under])
    resources = ["../../base", *sorted(path.name for path in files)]
    patches: list[Manifest] = []
    for manifest in manifests:
        kind, name = identity(manifest)
        steps = json_patch(under.get((kind, name), manifest), manifest)
        if steps:
            path = f"patches/{kind.lower()}-{name}.yaml"
            files[folder / path] = dump([steps])
            patches.append({"path": path, "target": {"kind": kind, "name": name}})
    return {folder / "kustomization.yaml": kustomization(namespace, resources, patches), **files}


def namespace_object(name: str) -> Manifest:
    """Return the namespace, which enforces the restricted Pod Security Standard."""
    labels = {
        "app.kubernetes.io/component": "namespace",
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/warn": "restricted",
    }
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def render_values(name: str, namespace: str) -> list[Manifest]:
    """Render the chart with one of the values files."""
    values = yaml.safe_load((MANIFESTS / "values" / f"{name}.yaml").read_text("utf-8"))
    manifests: list[Manifest] = without_helm_labels(render_chart(values, RELEASE, namespace))
    return manifests


def render_all(out: Path, namespace: str) -> dict[Path, str]:
    """Build all generated files of deploy/k8s, by path under `out`."""
    base = render_values("base", namespace)
    files = base_files(out / "base", base, namespace)
    for overlay in OVERLAYS:
        folder = out / "overlays" / overlay
        files |= overlay_files(folder, render_values(overlay, namespace), base, namespace)
    return files


def stale_files(out: Path, files: Mapping[Path, str]) -> list[Path]:
    """Return manifests on disk that are no longer rendered."""
    found = [*out.glob("base/*.yaml"), *out.glob("overlays/**/*.yaml")]
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

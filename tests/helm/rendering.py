"""Render the chart and find one's way about what it makes."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm"
WORKLOADS = ("Deployment", "StatefulSet", "Pod")


def documents(text: str) -> Iterator[Any]:
    """The documents of a YAML stream; libyaml's loader takes a tenth of the time."""
    return iter(yaml.load_all(text, Loader=yaml.CSafeLoader))


def render(
    values: Mapping[str, Any] | None = None, name: str = "fleet", namespace: str = "agents"
) -> list[Manifest]:
    """All objects of a release, hooks included; raises HelmError when the values are refused."""
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(dict(values or {}), name=name, namespace=namespace)
    return [
        document
        for path, text in sorted(texts.items())
        if path.endswith(".yaml")
        for document in documents(text)
        if document
    ]


def notes(values: Mapping[str, Any] | None = None) -> str:
    """Return the notes that `helm install` prints at its end."""
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(dict(values or {}), name="fleet", namespace="agents")
    return texts["skillfleet/templates/NOTES.txt"]


def kinds(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """The objects of a kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def one(manifests: list[Manifest], kind: str, suffix: str) -> Manifest:
    """The one object of a kind whose name ends so."""
    (found,) = (m for m in kinds(manifests, kind) if m["metadata"]["name"].endswith(suffix))
    return found


def pod_template(manifest: Manifest) -> Manifest:
    """The pod that a workload makes, with `metadata` and `spec`."""
    if manifest["kind"] == "Pod":
        return manifest
    template: Manifest = manifest["spec"]["template"]
    return template


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Each workload's name and pod."""
    for manifest in manifests:
        if manifest["kind"] in WORKLOADS:
            yield manifest["metadata"]["name"], pod_template(manifest)


def containers(pod: Manifest) -> list[Manifest]:
    """A pod's containers, those that run first included."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def worker(manifests: list[Manifest], pool: str = "default") -> Manifest:
    """A pool's Deployment."""
    return one(manifests, "Deployment", f"worker-{pool}")


def env(container: Manifest) -> dict[str, Any]:
    """A container's own environment: plain values, and where the others come from."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, a minute at most, and keep what it prints."""
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value at any depth, with its path."""
    yield path, value
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from walk(item, (*path, str(key)))

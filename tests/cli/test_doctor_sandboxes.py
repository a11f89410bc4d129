"""The doctor reports which sandboxes workers would make, and what is missing."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.sandbox.cluster import TOKEN, Cluster, serving
from tests.cli.commands import Shell

pytestmark = [
    pytest.mark.xdist_group("cli"),
    pytest.mark.skipif(sys.platform != "linux", reason="the stand-in needs Linux"),
]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def settings(cluster: Cluster, tmp_path: Path) -> Iterator[dict[str, str]]:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "namespace").write_text("agents")
    with serving(cluster) as port:
        yield {
            "SKILLFLEET_SANDBOX": "kubernetes",
            "SKILLFLEET_SANDBOX_WARM_POOL": "python",
            "SKILLFLEET_KUBERNETES_URL": f"http://127.0.0.1:{port}",
            "SKILLFLEET_KUBERNETES_ACCOUNT": str(tmp_path),
        }


def finding(shell: Shell, settings: dict[str, str], code: int = 0) -> dict[str, Any] | None:
    shell = replace(shell, settings={**shell.settings, **settings})
    result = shell.run("doctor", "--json")
    assert result.code == code, result
    return next((each for each in result.json["findings"] if each["check"] == "sandboxes"), None)


def test_without_a_kind_there_is_nothing_to_say(bare: Shell) -> None:
    assert finding(bare, {}) is None


def test_the_kind_and_what_it_isolates_are_reported(bare: Shell, settings: dict[str, str]) -> None:
    found = finding(bare, settings)
    assert found is not None
    assert found["level"] == "ok"
    assert (
        "kubernetes. Isolated: pods of the namespace agents, those of the pool python"
        in (found["text"])
    )


def test_missing_rights_are_a_warning(
    bare: Shell, cluster: Cluster, settings: dict[str, str]
) -> None:
    cluster.denied = {("create", "sandboxclaims")}
    found = finding(bare, settings)
    assert found is not None
    assert found["level"] == "warning"
    assert "the service account may not create sandboxclaims" in found["text"]
    assert "docs/isolation.md" in found["advice"]


def test_auto_says_why_not_the_stronger_kind(
    bare: Shell, cluster: Cluster, settings: dict[str, str]
) -> None:
    cluster.installed = False
    found = finding(bare, {**settings, "SKILLFLEET_SANDBOX": "auto"})
    assert found is not None
    assert "404" in found["text"]


def test_wrong_settings_are_a_problem(bare: Shell) -> None:
    found = finding(bare, {"SKILLFLEET_SANDBOX": "kubernetes"}, code=1)
    assert found is not None
    assert found["level"] == "problem"
    assert "SKILLFLEET_SANDBOX_WARM_POOL" in found["text"]

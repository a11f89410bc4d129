"""Dashboard and alert rules: they load, they name known metrics, each alert has its runbook."""

import json
import re
import shutil
from typing import Any

import pytest
import yaml

from tests.helm.rendering import CHART, ROOT, kinds, one, render, run
from tests.helm.value_sets import EVERYTHING

ALERTS = CHART / "files" / "alerts.yaml"
DASHBOARD = CHART / "files" / "dashboard.json"
METRICS = {
    *(f"skillfleet_queue_{name}" for name in ("queued", "running", "delayed")),
    "skillfleet_queue_oldest_age_seconds",
    "skillfleet_runs_parked",
    "skillfleet_runs_parked_oldest_age_seconds",
    "skillfleet_waits_open",
    "skillfleet_workers",
    "skillfleet_runs_total",
    "skillfleet_run_duration_seconds_bucket",
    "skillfleet_run_queue_wait_seconds_bucket",
    "skillfleet_runs_in_flight",
    "skillfleet_dead_letters_total",
    "skillfleet_leases_lost_total",
    "skillfleet_redis_evicted_keys_total",
    "skillfleet_loop_lag_seconds",
    "skillfleet_steps_total",
    "skillfleet_steps_replayed_total",
    "skillfleet_journal_size_bytes_total",
    "skillfleet_parks_total",
    "skillfleet_wait_duration_seconds_bucket",
    "skillfleet_schedule_runs_total",
    "skillfleet_schedule_lag_seconds_bucket",
}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    return queries + [rule["expr"] for rule in rules()]


def test_alerts_and_panels_name_known_metrics_only() -> None:
    named = set(re.findall(r"skillfleet_\w+", " ".join(expressions())))
    assert named <= METRICS


def test_every_known_metric_is_on_the_dashboard() -> None:
    named = set(re.findall(r"skillfleet_\w+", DASHBOARD.read_text("utf-8")))
    assert named >= METRICS


def test_gauges_of_the_exporter_are_never_summed_over_its_pods() -> None:
    for expression in expressions():
        bare = r"sum( by \([^)]*\))? ?\(skillfleet_(queue|workers)"
        assert not re.search(bare, expression), expression


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_each_alert_has_a_severity_a_summary_and_a_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "description"}
    runbook = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
    assert f"### {rule['alert']}\n" in runbook


def test_promtool_loads_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on PATH (Debian's prometheus package)")
    done = run(promtool, "check", "rules", str(ALERTS))
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_dashboard_reach_the_cluster_unchanged() -> None:
    manifests = render(EVERYTHING)
    (rule,) = kinds(manifests, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text("utf-8"))
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    dashboard = one(manifests, "ConfigMap", "dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    held = json.loads(dashboard["data"]["dashboard.json"])
    assert held == json.loads(DASHBOARD.read_text("utf-8"))


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken
        assert max(columns) < 24
        taken |= cells

"""The alert rules and the dashboard name only metrics that exist."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from skillfleet_cli.exporter import EVICTED, QUEUE_METRICS, WAITING_METRICS, WORKERS
from skillfleet_telemetry.metrics import TABLE
from tests.support.debian import require_binary

FILES = Path(__file__).parents[2] / "helm" / "files"
ALERTS, DASHBOARD = FILES / "alerts.yaml", FILES / "dashboard.json"


def existing() -> set[str]:
    """Return every metric name that Prometheus can see."""
    names = {WORKERS, f"{EVICTED}_total", *QUEUE_METRICS, *WAITING_METRICS}
    for metric in TABLE:
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        names |= {metric.prometheus + suffix for suffix in suffixes}
    return names


@pytest.mark.parametrize("file", [ALERTS, DASHBOARD], ids=lambda file: str(file.name))
def test_every_metric_that_is_named_exists(file: Path) -> None:
    named = set(re.findall(r"skillfleet_\w+|gen_ai_\w+", file.read_text("utf-8")))
    named -= {"skillfleet_queue"}
    assert named
    assert named <= existing()


def test_every_label_that_is_named_exists() -> None:
    labels = {"namespace", "job", "pod", "le", "queue"}
    labels |= {name.replace(".", "_") for metric in TABLE for name in metric.labels}
    groups = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    queries = [rule["expr"] for group in groups for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    queries += [target["expr"] for panel in panels for target in panel["targets"]]
    for query in queries:
        for clause in re.findall(r"(?:by|on) ?\(([^)]*)\)", query):
            assert {label.strip() for label in clause.split(",")} <= labels, query
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query):
            assert label in labels, query


def test_promtool_loads_the_rules() -> None:
    promtool = require_binary("promtool", "prometheus")
    done = subprocess.run(
        [promtool, "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


GROWS, NONE = "10+1000x60", "0x60"
# For each alert, series with which it fires once; the job `well` is a fleet beside that one.
SERIES: dict[str, dict[str, str]] = {
    "SkillfleetNoWorkers": {
        'skillfleet_queue_queued{job="lost",queue="celery",pod="a"}': GROWS,
        'skillfleet_queue_queued{job="lost",queue="celery",pod="b"}': GROWS,
        'skillfleet_workers{job="lost"}': NONE,
        'skillfleet_queue_queued{job="well",queue="celery"}': GROWS,
        'skillfleet_workers{job="well"}': GROWS,
    },
    "SkillfleetExporterDown": {'skillfleet_runs_in_flight{pod="p"}': GROWS},
    "SkillfleetQueueWaiting": {'skillfleet_queue_oldest_age_seconds{queue="celery"}': GROWS},
    "SkillfleetParkedLong": {"skillfleet_runs_parked_oldest_age_seconds": "900000x60"},
    "SkillfleetRunsStuck": {
        'skillfleet_queue_queued{job="stuck",queue="celery"}': GROWS,
        'skillfleet_queue_running{job="stuck",queue="celery"}': NONE,
        'skillfleet_queue_queued{job="well",queue="celery"}': GROWS,
        'skillfleet_queue_running{job="well",queue="celery"}': GROWS,
    },
    "SkillfleetRunsFailing": {'skillfleet_runs_total{skill="a.b",outcome="failed"}': GROWS},
    "SkillfleetDeadLetters": {'skillfleet_dead_letters_total{kind="run"}': GROWS},
    "SkillfleetLeasesLost": {"skillfleet_leases_lost_total": GROWS},
    "SkillfleetLoopBlocked": {'skillfleet_loop_lag_seconds{pod="p"}': GROWS},
    "SkillfleetRedisEvicts": {"skillfleet_redis_evicted_keys_total": GROWS},
}


def test_every_alert_is_tried() -> None:
    groups = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    assert [rule["alert"] for group in groups for rule in group["rules"]] == list(SERIES)


@pytest.mark.parametrize("alert", SERIES)
def test_an_alert_fires_on_series_as_we_expose_them(alert: str, tmp_path: Path) -> None:
    promtool = require_binary("promtool", "prometheus")
    firing = f'ALERTS{{alertname="{alert}",alertstate="firing",job!="well"}}'
    test = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values} for name, values in SERIES[alert].items()
                ],
                "promql_expr_test": [
                    {
                        "expr": f"count({firing})",
                        "eval_time": "45m",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

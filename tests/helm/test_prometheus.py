"""A real Prometheus with our rules scrapes a real fleet: what rules and panels name is there."""

import json
import re
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from skillfleet.errors import RunError
from skillfleet_producer import Fleet
from tests.helm.processes import LocalPod
from tests.helm.rendering import CHART, ROOT, kinds, one, render, worker
from tests.helm.test_monitoring import DASHBOARD, rules
from tests.helm.test_processes import answers, fleet_values, get, secrets
from tests.support.debian import require_binary
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer, running_server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("prometheus")

PARTS = ("worker", "exporter", "flower")
LOST = "lost-exporter"
VARIABLES = {"$namespace": ".*", "$skill": ".*", "$__rate_interval": "1m"}


class Prometheus:
    """A server that scrapes these ports every second, and has the chart's rules."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self.port = free_port()
        # As the operator's monitors would label it.
        jobs = [
            {
                "job_name": part,
                "metrics_path": "/metrics",
                "static_configs": [
                    {
                        "targets": [f"127.0.0.1:{port}"],
                        "labels": {"namespace": "agents", "pod": f"{part}-1"},
                    }
                ],
            }
            for part, port in ports.items()
        ]
        every = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        config = {
            "global": {**every, "evaluation_interval": "1s"},
            "scrape_configs": jobs,
            "rule_files": [str(CHART / "files" / "alerts.yaml")],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [
                    str(require_binary("prometheus", "prometheus")),
                    f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the HTTP API's answer; None while there is none."""
        query = urllib.parse.urlencode(parameters)
        status, body = get(f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}")
        assert status in (0, 200, 503), body
        return json.loads(body)["data"] if status == 200 else None

    def is_up(self, parts: set[str]) -> bool:
        """True when it has scraped all these parts well."""
        found = (self.ask("query", query="up == 1") or {"result": []})["result"]
        return {sample["metric"]["job"] for sample in found} == parts

    def value(self, query: str) -> list[Any]:
        """An instant query's samples."""
        answer = self.ask("query", query=query)
        return list(answer["result"]) if answer else []


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def prometheus(
    server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    ports = {part: free_port() for part in (*PARTS, LOST)}
    values = fleet_values(
        ports["worker"],
        exporter={"port": ports["exporter"]},
        flower={"port": ports["flower"]},
        monitoring={"enabled": True},
    )
    values["workerDefaults"]["modules"] = ["tests.telemetry.observed"]
    values["workerDefaults"]["env"] = [{"name": "PYTHONPATH", "value": str(ROOT)}]
    values["settings"] = {"parkSeconds": 0.2}
    manifests = render(values)
    workloads = [
        worker(manifests),
        one(manifests, "Deployment", "exporter"),
        one(manifests, "Deployment", "flower"),
    ]
    with ExitStack() as stack:
        for workload in workloads:
            stack.enter_context(LocalPod(workload, manifests, secrets(server))).start()
        # A second fleet in the same namespace, which has an exporter and no worker.
        other = stack.enter_context(running_server())
        lost = LocalPod(workloads[1], manifests, secrets(other))
        stack.enter_context(lost).start(None, "--port", str(ports[LOST]))
        with Fleet(other.producer_url) as fleet:
            fleet.enqueue("fleet.echo", {"text": "waits"})
        for part, port in ports.items():
            wait_until(partial(answers, port, "/metrics"), 60, part)
        found = Prometheus(tmp_path_factory.mktemp("prometheus"), ports)
        stack.callback(found.close)
        wait_until(lambda: found.is_up(set(ports)), 60, "scrapes of all")
        # Counters of runs: one that ends well, and one that does not.
        with Fleet(server.producer_url) as fleet:
            fleet.enqueue("fleet.echo", {"text": "hello"}).result(30)
            with pytest.raises(RunError):
                fleet.enqueue("fleet.echo", {"text": "", "seconds": 60}, timeout=0.2).result(30)
            # Steps, a wait in memory, a parked run that another attempt continues, a schedule.
            for seconds in (0.02, 1.0):
                fleet.enqueue("watched.pauses", {"seconds": seconds}).result(30)
            fleet.schedule("pulse", "fleet.echo", {"text": "hello"}, every=1)
        wait_until(lambda: len(found.value("skillfleet_runs_total")) == 3, 30, "all runs")
        wait_until(lambda: found.value("skillfleet_schedule_runs_total"), 30, "the schedule")
        # Two scrapes after that: a rate needs them.
        seen = time.time()
        wait_until(lambda: scraped_since(found, seen), 30, "more scrapes")
        yield found


def scraped_since(prometheus: Prometheus, moment: float) -> bool:
    """True when the worker's counters were scraped again, a second after `moment`."""
    samples = prometheus.value("timestamp(skillfleet_runs_total)")
    return bool(samples) and all(float(s["value"][1]) > moment + 1 for s in samples)


def queries() -> dict[str, str]:
    """Each query of the dashboard by its panel, its variables as for all namespaces and skills."""
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    found = {}
    for panel in panels:
        for target in panel["targets"]:
            query = str(target["expr"])
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            found[f"{panel['title']} {target['refId']}"] = query
    return found


def test_every_metric_of_rules_and_panels_is_scraped(prometheus: Prometheus) -> None:
    exposed = set(prometheus.ask("label/__name__/values"))
    text = " ".join([*queries().values(), *(rule["expr"] for rule in rules())])
    named = set(re.findall(r"\bskillfleet_\w+", text))
    assert len(named) > 10
    assert named <= exposed


@pytest.mark.parametrize("panel", queries())
def test_every_panel_shows_something(prometheus: Prometheus, panel: str) -> None:
    query = queries()[panel]
    # A scrape that fails on a busy machine makes its series stale until the next.
    wait_until(lambda: prometheus.value(query), 30, query)


def test_every_rule_is_evaluated_without_an_error(prometheus: Prometheus) -> None:
    wait_until(lambda: all(r["health"] == "ok" for r in loaded(prometheus)), 30, "evaluations")
    assert {rule["name"] for rule in loaded(prometheus)} == {rule["alert"] for rule in rules()}


def loaded(prometheus: Prometheus) -> list[Any]:
    groups = prometheus.ask("rules")["groups"]
    return [rule for group in groups for rule in group["rules"]] or [{"health": "unknown"}]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_every_rule_looks_at_series_that_are_there(
    prometheus: Prometheus, rule: dict[str, Any]
) -> None:
    for selector in re.findall(r"skillfleet_\w+(?:\{[^}]*\})?", rule["expr"]):
        wait_until(partial(prometheus.value, selector), 30, selector)


def condition(prometheus: Prometheus, alert: str) -> list[dict[str, str]]:
    """The labels of the series for which an alert's condition holds now."""
    (expression,) = (rule["expr"] for rule in rules() if rule["alert"] == alert)
    return [sample["metric"] for sample in prometheus.value(expression)]


def test_only_the_fleet_without_a_worker_meets_the_condition_of_no_workers(
    prometheus: Prometheus,
) -> None:
    def workers() -> dict[str, str]:
        samples = prometheus.value("skillfleet_workers")
        return {sample["metric"]["job"]: sample["value"][1] for sample in samples}

    wait_until(lambda: workers() == {"exporter": "1", LOST: "0"}, 30, "both exporters")
    lost = {"namespace": "agents", "job": LOST}
    for alert, labels in (
        ("SkillfleetNoWorkers", lost),
        ("SkillfleetRunsStuck", {**lost, "queue": "celery"}),
    ):
        wait_until(partial(condition, prometheus, alert), 30, alert)
        assert condition(prometheus, alert) == [labels]


def test_a_fleet_that_is_well_meets_no_other_condition(prometheus: Prometheus) -> None:
    # Of its two runs one timed out.
    known = {"SkillfleetNoWorkers", "SkillfleetRunsStuck", "SkillfleetRunsFailing"}
    for rule in rules():
        if rule["alert"] not in known:
            assert condition(prometheus, rule["alert"]) == [], rule["alert"]


def test_monitors_scrape_the_paths_that_were_scraped() -> None:
    manifests = render(fleet_values(monitoring={"enabled": True}))
    endpoints = [
        endpoint
        for kind, key in (("PodMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "endpoints"))
        for monitor in kinds(manifests, kind)
        for endpoint in monitor["spec"][key]
    ]
    assert [endpoint["path"] for endpoint in endpoints] == ["/metrics"] * 3

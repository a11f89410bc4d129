"""Tags of runs in spans, log lines and metrics: those that a setting names, and no others."""

import json
from typing import Any

import pytest
from opentelemetry import trace

from skillfleet_telemetry import metrics
from tests.support.ports import free_port
from tests.support.waiting import wait_until
from tests.telemetry.conftest import Watched, watched
from tests.telemetry.receiver import Receiver
from tests.telemetry.scraping import scrape


def _spans(seen: Watched, run_id: str) -> list[Any]:
    return [
        span
        for span in seen.receiver.spans
        if span.attributes.get("skillfleet.run.id") == run_id and span.kind != "PRODUCER"
    ]


@pytest.mark.parametrize("pool", ["loop", "prefork"])
def test_tags_that_a_setting_names_are_on_spans_lines_and_metrics(
    pool: str, receiver: Receiver, tracer: trace.Tracer
) -> None:
    port = free_port()
    options: dict[str, Any] = {
        "metrics": True,
        "probe_port": port,
        "telemetry_tags": "tenant, plan",
    }
    with watched(pool, receiver, concurrency=2, log_format="json", **options) as seen:
        tags = {"tenant": "acme", "secret": "x"}
        run = seen.fleet.enqueue("watched.add", {"x": 1}, tags=tags)
        run.result(timeout=60)
        seen.fleet.enqueue("watched.add", {"x": 1}).result(timeout=60)
        wait_until(lambda: len(_spans(seen, run.id)) == 2, what="both spans")
        for span in _spans(seen, run.id):
            found = {k: v for k, v in span.attributes.items() if k.startswith("skillfleet.tag.")}
            assert found == {"skillfleet.tag.tenant": "acme"}

        def counted(tenant: str) -> float:
            labels = {"skill": "watched.add", "tag_tenant": tenant, "tag_plan": ""}
            names = ("runs_total", "run_duration_seconds_count", "run_queue_wait_seconds_count")
            return sum(scrape(port).sum(f"skillfleet_{name}", **labels) for name in names)

        wait_until(lambda: (counted("acme"), counted("")) == (3, 3), what="both runs in metrics")
        wait_until(lambda: "run succeeded" in seen.worker.text(), what="the run's line")
        lines = [json.loads(each) for each in seen.worker.text().splitlines() if each[:1] == "{"]
        own = [line for line in lines if line.get("run_id") == run.id]
        assert own
        assert all(line["tags"] == {"tenant": "acme"} for line in own if "state" in line)


def test_a_tag_has_at_most_a_hundred_values_in_metrics() -> None:
    labels = {metrics.tag_labels({"of_this_test": str(n)}, ["of_this_test"]) for n in range(500)}
    assert len(labels) == 101
    assert ("tag.of_this_test=other",) in labels

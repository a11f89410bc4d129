"""The metrics of a worker as Prometheus sees them, in every pool, and their table in the docs."""

import json
import os
import re
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.core import Metric as Family

from skillfleet.errors import RunError
from skillfleet_telemetry import metrics as table
from skillfleet_telemetry.relay import Relay
from tests.support.fleet import POOLS
from tests.support.ports import free_port
from tests.support.waiting import wait_until
from tests.telemetry.conftest import Watched, watched
from tests.telemetry.receiver import Receiver
from tests.telemetry.scraping import scrape

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=POOLS)
def measured(request: pytest.FixtureRequest) -> Iterator[tuple[Watched, int]]:
    """A fleet with a metrics port, without tracing."""
    port = free_port()
    off = {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}
    with (
        Receiver() as receiver,
        watched(
            request.param,
            receiver,
            off,
            concurrency=4,
            metrics=True,
            probe_port=port,
            lease_seconds=2,
            reap_seconds=0.1,
        ) as fleet,
    ):
        yield fleet, port


def test_ends_durations_and_waits_are_counted_by_skill(measured: tuple[Watched, int]) -> None:
    seen, port = measured
    add = {"skill": "watched.add"}
    before = scrape(port)
    for run in seen.fleet.enqueue_many("watched.add", [{"x": i} for i in range(7)]):
        run.result(timeout=60)
    for name in ("fails", "takes_too_long"):
        with pytest.raises(RunError):
            seen.fleet.enqueue(f"watched.{name}").result(timeout=60)
    assert seen.fleet.enqueue("watched.fails_once").result(timeout=60) == 2
    waiting = seen.fleet.enqueue("watched.waits")
    wait_until(lambda: waiting.status().events > 1, what="the run to wait")
    wait_until(lambda: scrape(port).sum("skillfleet_runs_in_flight") == 1, what="a run in flight")
    waiting.cancel()
    with pytest.raises(RunError):
        waiting.result(timeout=60)

    def more(name: str, **labels: str) -> float:
        return scrape(port).sum(name, **labels) - before.sum(name, **labels)

    skills = ("add", "fails", "takes_too_long", "fails_once", "waits")

    def counted() -> bool:
        found = [more("skillfleet_runs_total", skill=f"watched.{name}") for name in skills]
        return found == [7, 1, 1, 1, 1]

    wait_until(counted, what="all ends to be counted")
    assert more("skillfleet_runs_total", outcome="succeeded", **add) == 7
    assert more("skillfleet_runs_total", outcome="failed") == 1
    assert more("skillfleet_runs_total", outcome="timed_out") == 1
    assert more("skillfleet_runs_total", outcome="cancelled") == 1
    assert more("skillfleet_run_duration_seconds_count", **add) == 7
    assert more("skillfleet_run_queue_wait_seconds_count", **add) == 7
    assert more("skillfleet_retries_total", skill="watched.fails_once") == 1
    assert more("skillfleet_cancel_latency_seconds_count") == 1
    assert more("skillfleet_events_total") >= 2
    assert more("skillfleet_event_size_bytes_total") > 0
    wait_until(lambda: scrape(port).sum("skillfleet_runs_in_flight") == 0, what="none in flight")


def test_labels_are_those_of_the_table_and_hold_no_ids(measured: tuple[Watched, int]) -> None:
    seen, port = measured
    # No other test counts this skill, whose end may be counted a moment later.
    run = seen.fleet.enqueue("fleet.echo", {"text": "hello"})
    run.result(timeout=60)
    known = {metric.prometheus: metric for metric in table.TABLE}
    for family in scrape(port).families:
        metric = known[_full(family)]
        for sample in family.samples:
            labels = {name.replace(".", "_") for name in metric.labels}
            assert set(sample.labels) - {"le"} == labels
            assert run.id not in sample.labels.values()


def test_an_unreadable_message_is_a_dead_letter(measured: tuple[Watched, int]) -> None:
    seen, port = measured
    name = "skillfleet_dead_letters_total"
    before = scrape(port).sum(name, kind="message")
    headers = {"lang": "py", "id": "x", "no task": "here"}
    message = {
        "body": "e30=",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": "t",
            "delivery_info": {"exchange": "", "routing_key": "celery"},
        },
    }
    with seen.server.client() as client:
        client.lpush("celery", json.dumps(message))
    wait_until(lambda: scrape(port).sum(name, kind="message") == before + 1, what="it to count")


def test_a_killed_childs_lease_and_restart_are_counted_by_the_worker_that_finds_it(
    receiver: Receiver,
) -> None:
    port = free_port()
    with watched(
        "prefork",
        receiver,
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        concurrency=2,
        metrics=True,
        probe_port=port,
        lease_seconds=3,
        reap_seconds=0.1,
    ) as seen:
        run = seen.fleet.enqueue("watched.dies_once", {"all_of_it": False})
        assert run.result(timeout=60) == 2
        buried = seen.fleet.enqueue("watched.dies_always")
        with pytest.raises(RunError):
            buried.result(timeout=60)
        wait_until(lambda: scrape(port).sum("skillfleet_dead_letters_total") == 1, what="it")
        found = scrape(port)
        assert found.sum("skillfleet_leases_lost_total") == 1 + 3
        assert found.sum("skillfleet_reaper_runs_total", work="restarted") == 1 + 2
        assert found.sum("skillfleet_runs_total", outcome="dead", skill="watched.dies_always") == 1
        # A dead child counts until its parent has noticed its end.
        wait_until(lambda: scrape(port).sum("skillfleet_runs_in_flight") == 0, what="none to run")


def test_what_a_child_counted_stays_when_the_child_is_gone() -> None:
    relay, got = Relay(), []
    relay.listen(lambda metric, value, labels: got.append((metric, value, labels)))
    child = os.fork()
    if child == 0:
        relay.send(table.RUNS, 1, ("a.b", "succeeded"))
        relay.send(table.IN_FLIGHT, 3, ())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    wait_until(lambda: got, what="the measurement")
    assert got == [(table.RUNS, 1, ("a.b", "succeeded"))]
    assert relay.in_flight() == 0


def test_names_that_skills_choose_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_names", defaultdict(set))
    labels = {table.bounded(f"model-{i}") for i in range(500)}
    assert len(labels) == 101
    assert "other" in labels
    assert table.bounded("new", "tenant") == "new"


def test_the_documentation_lists_every_metric_with_unit_and_labels() -> None:
    text = (ROOT / "docs" / "telemetry.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)$", text, re.MULTILINE))
    for metric in table.TABLE:
        labels = ", ".join(name.replace(".", "_") for name in metric.labels) or "none"
        expected = [metric.kind, metric.unit, labels, metric.description]
        cells = [cell.strip() for cell in rows[metric.prometheus].strip(" |").split("|")]
        assert cells == expected, metric.prometheus


def _full(family: Family) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name

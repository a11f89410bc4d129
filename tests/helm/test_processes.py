"""The chart's containers, run as they stand against a real Valkey."""

import base64
import json
import signal
import urllib.error
import urllib.request
from functools import partial
from typing import Any

from skillfleet_producer import Fleet, RunHandle
from tests.helm.processes import PodProcess, Secrets
from tests.helm.rendering import Manifest, one, pod_template, render, worker
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

DRAIN_SECONDS = 5


def get(url: str, user: str = "") -> tuple[int, str]:
    """Status and body of a GET; status 0 while nobody answers. `user` is `name:password`."""
    headers = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def secrets(valkey: ValkeyServer) -> Secrets:
    return {"skillfleet-redis": {"url": valkey.url}, "flower-auth": {"basic-auth": "ann:secret"}}


def container_of(workload: Manifest) -> Manifest:
    (container,) = pod_template(workload)["spec"]["containers"]
    return dict(container)


def fleet_values(port: int, **more: Any) -> dict[str, Any]:
    defaults = {"probes": {"port": port}, "drainSeconds": DRAIN_SECONDS}
    return {"workerDefaults": defaults, **more}


def answers(port: int, path: str) -> bool:
    return get(f"http://127.0.0.1:{port}{path}")[0] == 200


def is_running(run: RunHandle) -> bool:
    return run.status().state == "running"


def test_the_worker_container_consumes_and_answers_its_probes(valkey: ValkeyServer) -> None:
    port = free_port()
    manifests = render(fleet_values(port, monitoring={"enabled": True}))
    container = container_of(worker(manifests))
    with PodProcess(container, manifests, secrets(valkey)):
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = container[probe]["httpGet"]["path"]
            wait_until(partial(answers, port, path), timeout=60, what=path)
        with Fleet(valkey.url) as fleet:
            assert fleet.enqueue("fleet.echo", {"text": "hello"}).result(timeout=30) == "hello"
        assert "skillfleet_runs_total" in get(f"http://127.0.0.1:{port}/metrics")[1]


def test_the_worker_container_drains_within_its_grace_period(valkey: ValkeyServer) -> None:
    manifests = render(fleet_values(free_port()))
    deployment = worker(manifests)
    grace = pod_template(deployment)["spec"]["terminationGracePeriodSeconds"]
    with (
        PodProcess(container_of(deployment), manifests, secrets(valkey)) as pod,
        Fleet(valkey.url) as fleet,
    ):
        short = fleet.enqueue("fleet.echo", {"text": "in time", "seconds": 2})
        long = fleet.enqueue("fleet.echo", {"text": "too long", "seconds": 600})
        for handle in (short, long):
            wait_until(partial(is_running, handle), timeout=60, what="the run to start")
        pod.running.send_signal(signal.SIGTERM)
        assert pod.running.wait(timeout=grace) == 0
        assert short.result(timeout=1) == "in time"
        assert long.status().state == "queued"


def test_the_start_up_check_passes_a_good_redis_and_refuses_an_evicting_one(
    valkey: ValkeyServer,
) -> None:
    manifests = render()
    (check,) = pod_template(worker(manifests))["spec"]["initContainers"]
    with PodProcess(check, manifests, secrets(valkey)) as pod:
        assert pod.running.wait(timeout=60) == 0
    with valkey.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with PodProcess(check, manifests, secrets(valkey)) as pod:
                assert pod.running.wait(timeout=60) != 0
        finally:
            client.config_set("maxmemory-policy", "noeviction")


def test_the_helm_test_passes_with_a_worker(valkey: ValkeyServer) -> None:
    manifests = render(fleet_values(free_port()))
    probe = container_of(one(manifests, "Pod", "test"))
    with (
        PodProcess(container_of(worker(manifests)), manifests, secrets(valkey)),
        PodProcess(probe, manifests, secrets(valkey)) as pod,
    ):
        assert pod.running.wait(timeout=60) == 0


def test_the_exporter_container_answers_what_keda_asks(valkey: ValkeyServer) -> None:
    port = free_port()
    manifests = render({"exporter": {"port": port}})
    container = container_of(one(manifests, "Deployment", "exporter"))
    (trigger,) = one(manifests, "ScaledObject", "default")["spec"]["triggers"]
    path = trigger["metadata"]["url"].partition(".svc")[2].partition("/")[2]
    with Fleet(valkey.url) as fleet:
        fleet.enqueue_many("fleet.echo", [{"text": "waits"}] * 7)
    with PodProcess(container, manifests, secrets(valkey)):
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["httpGet"]["path"]
            wait_until(partial(answers, port, asked), timeout=60, what=asked)
        status, body = get(f"http://127.0.0.1:{port}/{path}")
        assert (status, json.loads(body)[trigger["metadata"]["valueLocation"]]) == (200, 7)
        metrics = get(f"http://127.0.0.1:{port}/metrics")[1]
        assert 'skillfleet_queue_queued{queue="celery"} 7' in metrics


def test_the_flower_container_asks_for_a_password_but_not_for_its_health(
    valkey: ValkeyServer,
) -> None:
    port = free_port()
    values = {
        "flower": {"port": port, "auth": {"basic": {"existingSecret": "flower-auth"}}},
        "monitoring": {"enabled": True},
    }
    manifests = render(values)
    container = container_of(one(manifests, "Deployment", "flower"))
    address = f"http://127.0.0.1:{port}"
    with PodProcess(container, manifests, secrets(valkey)) as pod:
        health = container["readinessProbe"]["httpGet"]["path"]
        wait_until(partial(answers, port, health), timeout=60, what="Flower")
        assert get(f"{address}/workers")[0] == 401
        assert get(f"{address}/workers", user="ann:wrong")[0] == 401
        assert get(f"{address}/workers", user="ann:secret")[0] == 200
        assert get(f"{address}/api/workers", user="ann:secret")[0] == 200
        pod.running.send_signal(signal.SIGTERM)
        assert pod.running.wait(timeout=30) == 0


def test_flower_lives_under_its_prefix(valkey: ValkeyServer) -> None:
    port = free_port()
    manifests = render({"flower": {"port": port, "urlPrefix": "/flower", "readOnly": True}})
    container = container_of(one(manifests, "Deployment", "flower"))
    with PodProcess(container, manifests, secrets(valkey)):
        health = container["livenessProbe"]["httpGet"]["path"]
        wait_until(partial(answers, port, health), timeout=60, what="Flower")
        assert answers(port, "/flower/workers")

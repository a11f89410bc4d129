"""The chart's containers, run as they stand against a real Valkey."""

import base64
import json
import signal
import urllib.error
import urllib.request
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from skillfleet.errors import RunFailed
from skillfleet_auth.signing import write_new_answer_key
from skillfleet_producer import Fleet, RunHandle
from tests.auth.keys import make_keys
from tests.helm.processes import LocalPod, Secrets
from tests.helm.rendering import Manifest, one, pod_template, render, worker
from tests.helm.value_sets import VALUE_SETS
from tests.support import acl
from tests.support.forms import forms
from tests.support.ports import free_port
from tests.support.tls import TlsServer
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

DRAIN_SECONDS = 5


def get(url: str, user: str = "", data: bytes | None = None) -> tuple[int, str]:
    """Status and body of a GET (a POST with `data`); status 0 without an answer.

    `user` is `name:password`.
    """
    headers = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user else {}
    request = urllib.request.Request(url, headers=headers, data=data)
    try:
        with urllib.request.urlopen(request, timeout=10) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def secrets(valkey: ValkeyServer) -> Secrets:
    """Return the secrets of an operator: each part's URL, with its own user."""
    roles = ("exporter", "flower", "producer")
    urls = {role: valkey.url_of(f"skillfleet-{role}") for role in roles}
    urls["url"] = valkey.worker_url
    return {"skillfleet-redis": urls, "flower-auth": {"basic-auth": "ann:secret"}}


def container_of(workload: Manifest) -> Manifest:
    (container,) = pod_template(workload)["spec"]["containers"]
    return dict(container)


def fleet_values(
    port: int | None = None, pool: str = "loop", concurrency: int = 100, **more: Any
) -> dict[str, Any]:
    """Values of a fleet whose worker is probed at `port`; each part is a user of its own."""
    defaults = {
        "probes": {"port": port or free_port()},
        "drainSeconds": DRAIN_SECONDS,
        "pool": pool,
        "concurrency": concurrency,
    }
    users = {role: {"urlKey": role} for role in ("exporter", "flower", "producer")}
    return {"workerDefaults": defaults, "redis": {"users": users}} | more


def answers(port: int, path: str) -> bool:
    return get(f"http://127.0.0.1:{port}{path}")[0] == 200


def is_running(run: RunHandle) -> bool:
    return run.status().state == "running"


def test_the_worker_container_consumes_and_answers_its_probes(valkey: ValkeyServer) -> None:
    port = free_port()
    manifests = render(fleet_values(port, monitoring={"enabled": True}))
    container = container_of(worker(manifests))
    with LocalPod(worker(manifests), manifests, secrets(valkey)) as pod:
        pod.start()
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = container[probe]["httpGet"]["path"]
            wait_until(partial(answers, port, path), timeout=60, what=path)
        with Fleet(valkey.producer_url) as fleet:
            assert fleet.enqueue("fleet.echo", {"text": "hello"}).result(timeout=30) == "hello"
        metrics = f"http://127.0.0.1:{port}/metrics"
        wait_until(lambda: "skillfleet_runs_total" in get(metrics)[1], what="the run to be counted")


@pytest.mark.parametrize("pool", forms(short=["loop"], thorough=["prefork", "threads"]))
def test_the_worker_container_drains_within_its_grace_period(
    valkey: ValkeyServer, pool: str
) -> None:
    manifests = render(fleet_values(pool=pool, concurrency=2))
    deployment = worker(manifests)
    grace = pod_template(deployment)["spec"]["terminationGracePeriodSeconds"]
    with (
        LocalPod(deployment, manifests, secrets(valkey)) as pod,
        Fleet(valkey.producer_url) as fleet,
    ):
        process = pod.start()
        short = fleet.enqueue("fleet.echo", {"text": "in time", "seconds": 2})
        long = fleet.enqueue("fleet.echo", {"text": "too long", "seconds": 600})
        for handle in (short, long):
            wait_until(partial(is_running, handle), timeout=60, what="the run to start")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=grace) == 0
        assert short.result(timeout=1) == "in time"
        assert long.status().state == "queued"
        # From the first line to the last, whatever is done with the log.
        lines = pod.log().splitlines()
        assert "ready" in pod.log()
        assert {type(json.loads(line)) for line in lines} == {dict}


def test_the_start_up_check_passes_a_good_redis_and_refuses_an_evicting_one(
    valkey: ValkeyServer,
) -> None:
    manifests = render(fleet_values())
    with (
        LocalPod(worker(manifests), manifests, secrets(valkey)) as pod,
        valkey.client() as client,
    ):
        pod.initialise()
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            assert pod.start("doctor").wait(timeout=60) != 0
            assert "maxmemory-policy" in pod.log("doctor")
        finally:
            client.config_set("maxmemory-policy", "noeviction")


def test_the_helm_test_passes_with_a_worker(valkey: ValkeyServer) -> None:
    manifests = render(fleet_values())
    with (
        LocalPod(worker(manifests), manifests, secrets(valkey)) as pod,
        LocalPod(one(manifests, "Pod", "test"), manifests, secrets(valkey)) as hook,
    ):
        pod.start()
        assert hook.start().wait(timeout=60) == 0


def test_the_exporter_container_answers_what_keda_asks(valkey: ValkeyServer) -> None:
    port = free_port()
    manifests = render(fleet_values(exporter={"port": port}))
    exporter = one(manifests, "Deployment", "exporter")
    container = container_of(exporter)
    (trigger,) = one(manifests, "ScaledObject", "default")["spec"]["triggers"]
    path = trigger["metadata"]["url"].partition(".svc")[2].partition("/")[2]
    with Fleet(valkey.producer_url) as fleet:
        fleet.enqueue_many("fleet.echo", [{"text": "waits"}] * 7)
    with LocalPod(exporter, manifests, secrets(valkey)) as pod:
        pod.start()
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
    flower_values = {"port": port, "auth": {"basic": {"existingSecret": "flower-auth"}}}
    manifests = render(fleet_values(flower=flower_values, monitoring={"enabled": True}))
    flower = one(manifests, "Deployment", "flower")
    address = f"http://127.0.0.1:{port}"
    with LocalPod(flower, manifests, secrets(valkey)) as pod:
        process = pod.start()
        health = container_of(flower)["readinessProbe"]["httpGet"]["path"]
        wait_until(partial(answers, port, health), timeout=60, what="Flower")
        assert get(f"{address}/workers")[0] == 401
        assert get(f"{address}/workers", user="ann:wrong")[0] == 401
        assert get(f"{address}/workers", user="ann:secret")[0] == 200
        assert get(f"{address}/api/workers", user="ann:secret")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def test_flower_without_a_user_of_its_own_sees_runs_as_the_workers(valkey: ValkeyServer) -> None:
    port = free_port()
    flower_values = {"port": port, "auth": {"basic": {"existingSecret": "flower-auth"}}}
    manifests = render(fleet_values(flower=flower_values) | {"redis": {}})
    with (
        LocalPod(worker(manifests), manifests, secrets(valkey)) as pod,
        LocalPod(one(manifests, "Deployment", "flower"), manifests, secrets(valkey)) as flower,
        Fleet(valkey.producer_url) as fleet,
    ):
        pod.start()
        flower.start()
        wait_until(partial(answers, port, "/healthcheck"), 60, "Flower")
        wait_until(lambda: "Events of group {task} enabled" in pod.log(), 60, "Flower's events")
        run = fleet.enqueue("fleet.echo", {"text": "hello"})
        tasks = f"http://127.0.0.1:{port}/api/tasks"
        wait_until(lambda: run.id in get(tasks, "ann:secret")[1], 30, "the run in Flower")


def test_a_worker_serves_signed_runs_and_refuses_others(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    keys = make_keys(tmp_path)
    answer_key = write_new_answer_key(tmp_path, "answers")
    given = {
        **secrets(valkey),
        "answer-keys": {answer_key.name: answer_key.read_text()},
        "producer-keys": files_of(keys.producers),
        "worker-keys": files_of(keys.workers),
        "worker-key": {"worker.private.pem": keys.private("worker").read_text()},
        "test-key": {"backend.private.pem": keys.private("backend").read_text()},
    }
    port = free_port()
    manifests = render(fleet_values(port, **VALUE_SETS["signed runs"]))
    with (
        LocalPod(worker(manifests), manifests, given) as pod,
        LocalPod(one(manifests, "Pod", "test"), manifests, given) as hook,
        Fleet(valkey.producer_url) as unsigned,
        Fleet(settings=keys.settings(valkey.producer_url, "untrusted")) as untrusted,
        Fleet(settings=keys.settings(valkey.producer_url)) as signed,
    ):
        pod.initialise().start()
        wait_until(partial(answers, port, "/readyz"), 60, "the worker")
        assert hook.start().wait(timeout=60) == 0
        assert signed.enqueue("fleet.echo", {"text": "hello"}).result(timeout=30) == "hello"
        for fleet in (unsigned, untrusted):
            with pytest.raises(RunFailed) as refused:
                fleet.enqueue("fleet.echo", {"text": "hello"}).result(timeout=30)
            assert refused.value.code == "unauthorized"


def files_of(folder: Path) -> dict[str, str]:
    """A folder's files as the data of a Secret."""
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_each_part_reaches_a_server_with_tls_as_its_own_user(tmp_path: Path) -> None:
    server = TlsServer(tmp_path)
    ports = {part: free_port() for part in ("worker", "exporter", "flower")}
    values = fleet_values(
        ports["worker"],
        **VALUE_SETS["Redis users"],
        exporter={"port": ports["exporter"]},
        flower={"port": ports["flower"]},
    )
    roles = ("worker", "exporter", "flower", "producer")
    known = {role: acl.password_of(f"skillfleet-{role}") for role in roles}
    given = {
        "redis-users": known,
        "redis-producer": {"user": "skillfleet-producer", "password": known["producer"]},
        "redis-ca": {"ca.crt": server.certificate.read_text()},
    }
    manifests = render(values)
    addresses = {"redis.data.svc:6380": f"127.0.0.1:{server.tls_port}"}
    parts = [
        worker(manifests, "lists"),
        one(manifests, "Deployment", "exporter"),
        one(manifests, "Deployment", "flower"),
        one(manifests, "Pod", "test"),
    ]
    try:
        server.start()
        with ExitStack() as stack:
            pods = [
                stack.enter_context(LocalPod(part, manifests, given, addresses)) for part in parts
            ]
            *_, hook = [pod.initialise().start() for pod in pods]
            assert hook.wait(timeout=60) == 0
            wait_until(partial(answers, ports["exporter"], "/metrics"), 60, "the exporter")
            wait_until(partial(answers, ports["flower"], "/healthcheck"), 60, "Flower")
            page = f"http://127.0.0.1:{ports['flower']}/workers?refresh=1"
            wait_until(lambda: "celery@" in get(page)[1], 60, "the worker in Flower")
        assert server.denied() == []
    finally:
        server.close()


def test_flowers_buttons_work_behind_a_proxy_only(valkey: ValkeyServer) -> None:
    for proxy, status in ((True, 200), (False, 401)):
        port = free_port()
        manifests = render(fleet_values(flower={"port": port, "auth": {"proxy": proxy}}))
        flower = one(manifests, "Deployment", "flower")
        with LocalPod(flower, manifests, secrets(valkey)) as pod:
            pod.start()
            wait_until(partial(answers, port, "/healthcheck"), timeout=60, what="Flower")
            assert get(f"http://127.0.0.1:{port}/api/workers")[0] == status


def test_flower_lives_under_its_prefix(valkey: ValkeyServer) -> None:
    port = free_port()
    flower_values = {"port": port, "urlPrefix": "/flower", "readOnly": True}
    manifests = render(fleet_values(flower=flower_values))
    flower = one(manifests, "Deployment", "flower")
    with LocalPod(flower, manifests, secrets(valkey)) as pod:
        pod.start()
        health = container_of(flower)["livenessProbe"]["httpGet"]["path"]
        wait_until(partial(answers, port, health), timeout=60, what="Flower")
        assert answers(port, "/flower/workers")

"""The trial's containers beside each other: its Valkey, and each part as a user of its own."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import redis

from skillfleet_producer import Fleet, Settings
from tests.helm.processes import LocalPod, Secrets
from tests.helm.rendering import Manifest, one, pod_template, render, worker
from tests.helm.test_processes import answers, get
from tests.support.debian import require_binary
from tests.support.ports import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("trial")

# Any character in a password must be safe in shell, configuration files and URLs.
ODD = """ p"w's $(id) `id` \\1 &|#/%40?:@"""
PASSWORDS = {role: role + ODD for role in ("worker", "producer", "exporter", "flower")}
SECRETS: Secrets = {"valkey-auth": PASSWORDS, "flower-auth": {"basic-auth": "ann:secret"}}
NAMESPACE = "blue"


@dataclass(frozen=True)
class Trial:
    """A rendered trial whose Valkey runs. Its user `admin` is the test's own."""

    manifests: list[Manifest]
    server: LocalPod
    port: int
    ports: dict[str, int]

    def pod(self, workload: Manifest) -> LocalPod:
        """A pod of the trial, not yet started."""
        return LocalPod(workload, self.manifests, SECRETS, self.addresses)

    @property
    def addresses(self) -> dict[str, str]:
        return {"fleet-skillfleet-valkey:6379": f"127.0.0.1:{self.port}"}

    def client(self, user: str | None, password: str = "") -> redis.Redis:
        return redis.Redis(port=self.port, username=user, password=password or None)

    def settings(self) -> Settings:
        """A producer's, as in the notes of the chart."""
        return Settings.load(
            redis_url=f"redis://127.0.0.1:{self.port}/0",
            redis_username="skillfleet-producer",
            redis_password=PASSWORDS["producer"],
            namespace=NAMESPACE,
        )

    def denied(self) -> list[str]:
        """Return the server's refusals so far: user and command or key."""
        with self.client("admin", "admin") as client:
            entries: Any = client.acl_log()
        return [f"{entry['username']}: {entry['object']} ({entry['reason']})" for entry in entries]

    def answers(self, part: str, path: str) -> bool:
        return answers(self.ports[part], path)


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    port = free_port()
    ports = {part: free_port() for part in ("worker", "exporter", "flower")}
    manifests = render(
        {
            "valkey": {"enabled": True, "auth": {"existingSecret": "valkey-auth"}},
            "settings": {"namespace": NAMESPACE, "defaultQueue": "chat"},
            "workers": [{"name": "default", "queues": ["chat", "batch.slow"]}],
            "workerDefaults": {"probes": {"port": ports["worker"]}, "drainSeconds": 5},
            "exporter": {"port": ports["exporter"]},
            "flower": {
                "port": ports["flower"],
                "auth": {"basic": {"existingSecret": "flower-auth"}},
            },
        }
    )
    with LocalPod(one(manifests, "StatefulSet", "valkey"), manifests, SECRETS) as server:
        server.initialise()
        with (server.folder / "users" / "users.acl").open("a") as users:
            users.write("user admin on >admin ~* &* +@all\n")
        server.start(None, "--port", str(port))
        found = Trial(manifests, server, port, ports)
        wait_until(lambda: reachable(found), what="Valkey")
        yield found


def is_ready(server: LocalPod, start: int) -> bool:
    """True when the server takes commands after that many starts."""
    return server.log().count("Ready to accept connections") == start


def reachable(trial: Trial) -> bool:
    try:
        with trial.client("admin", "admin") as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_the_server_admits_its_users_by_password_and_no_others(trial: Trial) -> None:
    for role, password in PASSWORDS.items():
        with trial.client(f"skillfleet-{role}", password) as client:
            assert client.ping()
    for user, password in ((None, ""), ("default", ""), ("skillfleet-worker", "worker")):
        with trial.client(user, password) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
    users = trial.server.folder / "users" / "users.acl"
    assert not set(PASSWORDS.values()) & set(users.read_text().splitlines())
    assert (users.stat().st_mode & 0o077) == 0


def test_its_settings_are_those_of_the_chart(trial: Trial) -> None:
    with trial.client("admin", "admin") as client:
        config: Any = client.config_get("*")
    assert (config["appendonly"], config["maxmemory-policy"]) == ("yes", "noeviction")
    assert config["maxmemory"] == str(512 * 1024 * 1024)


def test_its_data_outlives_its_process(trial: Trial) -> None:
    port = free_port()
    workload = one(trial.manifests, "StatefulSet", "valkey")
    with LocalPod(workload, trial.manifests, SECRETS) as server:
        server.initialise()
        found = Trial(trial.manifests, server, port, {})
        user, key = ("skillfleet-worker", PASSWORDS["worker"]), f"{{{NAMESPACE}:0}}:run:x"
        for start in (1, 2):
            process = server.start(None, "--port", str(port))
            wait_until(partial(is_ready, server, start), what="Valkey")
            with found.client(*user) as client:
                assert client.hincrby(key, "starts", 1) == start
            process.terminate()
            assert process.wait(timeout=30) == 0


def test_its_readiness_probe_passes(trial: Trial) -> None:
    (container,) = pod_template(one(trial.manifests, "StatefulSet", "valkey"))["spec"]["containers"]
    _, *arguments = container["readinessProbe"]["exec"]["command"]
    client = str(require_binary("redis-cli", "redis-tools"))
    done = trial.server.execute("valkey", [client, "-p", str(trial.port), *arguments])
    assert (done.returncode, done.stdout.strip()) == (0, "PONG")


def test_an_empty_password_starts_no_server(trial: Trial) -> None:
    workload = one(trial.manifests, "StatefulSet", "valkey")
    empty = {"valkey-auth": {**PASSWORDS, "flower": ""}}
    with LocalPod(workload, trial.manifests, empty) as pod:
        assert pod.start("users").wait(timeout=30) != 0
        assert "FLOWER_PASSWORD" in pod.log("users")
        assert not (pod.folder / "users" / "users.acl").exists()


def test_each_part_does_its_work_as_its_own_user(trial: Trial) -> None:
    manifests = trial.manifests
    with trial.client("admin", "admin") as client:
        client.acl_log_reset()
    with (
        trial.pod(worker(manifests)) as pod,
        trial.pod(one(manifests, "Deployment", "exporter")) as exporter,
        trial.pod(one(manifests, "Deployment", "flower")) as flower,
        trial.pod(one(manifests, "Pod", "test")) as hook,
        Fleet(settings=trial.settings()) as fleet,
    ):
        pod.initialise()
        process = pod.start()
        exporter.start()
        flower.start()
        assert hook.start().wait(timeout=60) == 0
        assert fleet.enqueue("fleet.echo", {"text": "hello"}, queue="batch.slow").result(20)
        for part, path in (("worker", "/readyz"), ("exporter", "/readyz")):
            wait_until(lambda p=part, u=path: trial.answers(p, u), 60, part)  # type: ignore[misc]
        for path in ("/metrics", "/queues", "/demand?queue=chat&queue=batch.slow"):
            assert trial.answers("exporter", path), exporter.log()
        wait_until(lambda: trial.answers("flower", "/healthcheck"), 60, "Flower")
        wait_until(lambda: "Events of group {task} enabled" in pod.log(), 30, "Flower's events")
        long = fleet.enqueue("fleet.echo", {"text": "long", "seconds": 600})
        use_flower(trial.ports["flower"], long.id)
        wait_until(lambda: long.status().state == "cancelled", 20, "Flower's button")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert trial.denied() == []


def use_flower(port: int, run: str) -> None:
    """Look at each page that asks the fleet something, then revoke a run."""
    address, user = f"http://127.0.0.1:{port}", "ann:secret"
    wait_until(lambda: run in get(f"{address}/api/tasks", user)[1], 30, "the run in Flower")
    for path in ("/workers?refresh=1", "/tasks", f"/task/{run}", "/broker"):
        assert get(f"{address}{path}", user)[0] == 200, path
    for path in ("/api/workers?refresh=1", "/api/queues/length", f"/api/task/result/{run}"):
        assert get(f"{address}{path}", user)[0] == 200, path
    assert get(f"{address}/api/task/revoke/{run}?terminate=true", user, data=b"")[0] == 200

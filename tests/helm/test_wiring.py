"""Objects find each other: selectors, ports, names, references."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from deploy import settings_page
from tests.helm.rendering import (
    Manifest,
    containers,
    kinds,
    one,
    pod_template,
    pods,
    render,
    walk,
    worker,
)
from tests.helm.value_sets import EVERYTHING, VALUE_SETS

LONG = "a" * 26 + "-" + "b" * 26
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
# Secrets and ConfigMaps that operators bring along, by value set.
EXTERNAL = {
    "defaults": {"skillfleet-redis"},
    "everything": {"redis-acl", "redis-ca", "rabbitmq", "otlp", "openai", "more", "flower-auth"}
    | {"flower-tls", "registry", "bucket"},
    "Redis lists": {"redis-acl", "redis-ca"},
    "external Redis with TLS": {"redis-acl", "redis-ca"},
    "Redis users": {"redis-users", "redis-producer", "redis-ca"},
    "Redis users by URL": {"skillfleet-redis", "redis-producer"},
    "signed runs": {"skillfleet-redis", "worker-keys", "worker-key", "answer-keys", "test-key"},
    "signed runs without calls": {"skillfleet-redis", "producer-keys"},
    "trial": set(),
    "trial without add-ons": set(),
    "Redis lists of the trial Valkey": {"valkey-auth"},
    "Flower behind OAuth": {"skillfleet-redis", "flower-oauth"},
}

SANDBOXES = {"skillfleet.component": "sandbox"}
"""The label of pods that no workload of the chart makes, but the controller of sandboxes."""


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def selected(manifests: list[Manifest], selector: dict[str, str]) -> list[str]:
    """The workloads whose pods a selector finds."""
    return [name for name, pod in pods(manifests) if selects(selector, pod["metadata"]["labels"])]


def selectors(manifests: list[Manifest]) -> Iterator[tuple[Manifest, dict[str, str]]]:
    """Each object with the labels by which it looks for pods."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "Service":
            yield manifest, spec["selector"]
        elif manifest["kind"] == "NetworkPolicy":
            yield manifest, spec["podSelector"]["matchLabels"]
        elif manifest["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget", "PodMonitor"):
            yield manifest, spec["selector"]["matchLabels"]


def test_every_selector_finds_pods_of_its_own_part_only(fleet: list[Manifest]) -> None:
    parts = {name: pod["metadata"]["labels"] for name, pod in pods(fleet)}
    key = "app.kubernetes.io/component"
    for manifest, selector in selectors(fleet):
        if selector == SANDBOXES:
            continue
        found = selected(fleet, selector)
        assert found, manifest["metadata"]["name"]
        assert {parts[name][key] for name in found} == {manifest["metadata"]["labels"][key]}


def test_the_policy_of_sandboxes_finds_those_of_the_warm_pool() -> None:
    manifests = render(EVERYTHING)
    (template,) = kinds(manifests, "SandboxTemplate")
    labels = template["spec"]["podTemplate"]["metadata"]["labels"]
    found = [each for each, selector in selectors(manifests) if selects(selector, labels)]
    assert [each["kind"] for each in found] == ["NetworkPolicy"]


def test_workloads_select_no_pods_but_their_own() -> None:
    manifests = render(EVERYTHING)
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            selector = manifest["spec"]["selector"]["matchLabels"]
            assert selected(manifests, selector) == [manifest["metadata"]["name"]]


def test_service_monitors_find_their_services() -> None:
    manifests = render(EVERYTHING)
    for monitor in kinds(manifests, "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        (service,) = (
            s for s in kinds(manifests, "Service") if selects(selector, s["metadata"]["labels"])
        )
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


def test_labels_of_a_pool_cannot_take_it_out_of_its_selector() -> None:
    labels = pod_template(worker(render(EVERYTHING), "batch"))["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] == "worker"
    assert labels["tier"] == "skills"


def test_every_named_port_is_a_port_of_the_container(fleet: list[Manifest]) -> None:
    for name, pod in pods(fleet):
        for container in containers(pod):
            ports = {port["name"] for port in container.get("ports", [])}
            wanted = {v for path, v in walk(container) if path[-1:] == ("port",)}
            assert wanted <= ports, name
    for service in kinds(fleet, "Service"):
        (target,) = selected(fleet, service["spec"]["selector"])
        pod = dict(pods(fleet))[target]
        ports = {p["name"] for c in containers(pod) for p in c.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_scalers_and_ingresses_point_at_what_exists(fleet: list[Manifest]) -> None:
    deployments = {m["metadata"]["name"] for m in kinds(fleet, "Deployment")}
    for scaler in [*kinds(fleet, "ScaledObject"), *kinds(fleet, "HorizontalPodAutoscaler")]:
        assert scaler["spec"]["scaleTargetRef"]["name"] in deployments
    authentications = {m["metadata"]["name"] for m in kinds(fleet, "TriggerAuthentication")}
    for scaler in kinds(fleet, "ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            if "authenticationRef" in trigger:
                assert trigger["authenticationRef"]["name"] in authentications
    services = {m["metadata"]["name"] for m in kinds(fleet, "Service")}
    for ingress in kinds(fleet, "Ingress"):
        for path, value in walk(ingress):
            if path[-2:] == ("service", "name"):
                assert value in services


def references(manifests: list[Manifest]) -> Iterator[tuple[str, str]]:
    """Each Secret, ConfigMap, claim and account that an object names, with its kind."""
    for manifest in manifests:
        for path, value in walk(manifest):
            match path:
                case (*_, "secretKeyRef", "name") | (*_, "secret", "secretName" | "name"):
                    yield "Secret", value
                case (*_, "tls", _, "secretName") | (*_, "imagePullSecrets", _, "name"):
                    yield "Secret", value
                case (*_, "secretTargetRef", _, "name") | (*_, "secretRef", "name"):
                    yield "Secret", value
                case (*_, "configMapRef" | "configMapKeyRef" | "configMap", "name"):
                    yield "ConfigMap", value
                case (*_, "persistentVolumeClaim", "claimName"):
                    yield "PersistentVolumeClaim", value
                case (*_, "serviceAccountName") | ("subjects", _, "name"):
                    yield "ServiceAccount", value


@pytest.mark.parametrize("name", VALUE_SETS)
def test_every_reference_exists_or_is_declared_external(name: str) -> None:
    manifests = render(VALUE_SETS[name])
    made = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    external = EXTERNAL.get(name, EXTERNAL["defaults"])
    named = set(references(manifests))
    others = {
        "everything": {("PersistentVolumeClaim", "models")},
        "signed runs": {("ConfigMap", "producer-keys")},
    }
    assert named - made == {("Secret", value) for value in external} | others.get(name, set())


def test_an_environment_variable_is_set_once(fleet: list[Manifest]) -> None:
    settings = one(fleet, "ConfigMap", "settings")["data"]
    for name, pod in pods(fleet):
        for container in containers(pod):
            names = [entry["name"] for entry in container.get("env", [])]
            assert len(names) == len(set(names)), name
            assert not set(names) & set(settings), name


def test_settings_have_the_defaults_of_the_code_unless_values_differ() -> None:
    classes = settings_page.settings_classes()
    rows = [row for each in classes for row in settings_page.rows(each)]
    defaults = {row.variable: row.default.strip("`") for row in rows}
    found = one(render({}), "ConfigMap", "settings")["data"]
    same = {name: defaults[name] for name in found if name != "SKILLFLEET_LOG_FORMAT"}
    assert found == {**same, "SKILLFLEET_LOG_FORMAT": "json"}
    values = {
        "settings": {"parkSeconds": 0.5, "maxWaitSeconds": 31536000, "maxJournalBytes": 1048576},
        "telemetry": {"tags": ["tenant", "plan"]},
        "auth": {"tenantClaim": "org"},
    }
    found = one(render(values), "ConfigMap", "settings")["data"]
    assert found["SKILLFLEET_PARK_SECONDS"] == "0.5"
    assert found["SKILLFLEET_MAX_WAIT_SECONDS"] == "31536000"
    assert found["SKILLFLEET_MAX_JOURNAL_BYTES"] == "1048576"
    assert found["SKILLFLEET_TELEMETRY_TAGS"] == "tenant,plan"
    assert found["SKILLFLEET_TENANT_CLAIM"] == "org"


def test_service_links_cannot_shadow_settings(fleet: list[Manifest]) -> None:
    # A Service `skillfleet-exporter` would put SKILLFLEET_EXPORTER_PORT into every pod.
    for name, pod in pods(fleet):
        assert pod["spec"]["enableServiceLinks"] is False, name


@pytest.mark.parametrize("release", ["f", LONG, f"{LONG[:41]}-skillfleet", "a.dotted.name"])
@pytest.mark.parametrize("name", ["everything", "trial"])
def test_names_and_labels_stay_short_and_clean(name: str, release: str) -> None:
    manifests = render(VALUE_SETS[name], name=release)
    for manifest in manifests:
        # 52: a StatefulSet's revisions and KEDA's own HPA names add to it before they are labels.
        assert len(manifest["metadata"]["name"]) <= 52
        assert DNS_LABEL.fullmatch(manifest["metadata"]["name"])
        for path, value in walk(manifest):
            if path[-2:-1] in (("labels",), ("matchLabels",)):
                assert len(value) <= 63, value


@pytest.mark.parametrize(
    ("first", "second"), [("one", "two"), (LONG, LONG[:-1] + "c"), ("a.b", "a-b")]
)
@pytest.mark.parametrize("name", ["everything", "trial"])
def test_two_releases_live_in_one_namespace(name: str, first: str, second: str) -> None:
    mine, theirs = (render(VALUE_SETS[name], name=release) for release in (first, second))

    def names(manifests: list[Manifest]) -> set[Any]:
        return {(m["kind"], m["metadata"]["name"]) for m in manifests}

    assert not names(mine) & names(theirs)
    for _, selector in selectors(mine):
        assert not selected(theirs, selector)


def test_keda_reaches_the_exporter_from_its_own_namespace() -> None:
    manifests = render(name="fleet", namespace="agents")
    service = one(manifests, "Service", "exporter")
    (trigger,) = one(manifests, "ScaledObject", "default")["spec"]["triggers"]
    host = f"{service['metadata']['name']}.agents.svc:{service['spec']['ports'][0]['port']}"
    assert trigger["metadata"]["url"] == f"http://{host}/demand?queue=celery"

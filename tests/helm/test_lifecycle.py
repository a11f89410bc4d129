"""Pods start, are probed, scale, roll and end as the fleet's promises ask."""

from typing import Any

import pytest

from tests.helm.rendering import (
    Manifest,
    containers,
    env,
    kinds,
    one,
    pod_template,
    render,
    worker,
)
from tests.helm.value_sets import EVERYTHING, TWO_POOLS, VALUE_SETS

# A worker ends within its drain and these seconds after SIGTERM.
LONGEST_END = 10


def pool_values(**pool: Any) -> dict[str, Any]:
    return {"workers": [{"name": "default", "queues": ["celery"], **pool}]}


def main_container(deployment: Manifest) -> Manifest:
    (container,) = pod_template(deployment)["spec"]["containers"]
    return dict(container)


def workers(manifests: list[Manifest]) -> list[Manifest]:
    part = "app.kubernetes.io/component"
    found = kinds(manifests, "Deployment")
    return [m for m in found if m["metadata"]["labels"][part] == "worker"]


def test_the_grace_period_outlasts_the_drain(fleet: list[Manifest]) -> None:
    for deployment in workers(fleet):
        spec = pod_template(deployment)["spec"]
        drain = int(env(main_container(deployment))["SKILLFLEET_DRAIN_SECONDS"])
        assert spec["terminationGracePeriodSeconds"] >= drain + LONGEST_END


def test_the_grace_period_follows_drain_margin_and_pre_stop() -> None:
    values = pool_values(
        drainSeconds=600, graceMarginSeconds=20, preStop={"command": ["sleep", "7"], "seconds": 7}
    )
    deployment = worker(render(values))
    assert pod_template(deployment)["spec"]["terminationGracePeriodSeconds"] == 627
    lifecycle = main_container(deployment)["lifecycle"]
    assert lifecycle == {"preStop": {"exec": {"command": ["sleep", "7"]}}}


def test_the_worker_is_process_one_and_gets_the_signal_itself(fleet: list[Manifest]) -> None:
    for deployment in workers(fleet):
        container = main_container(deployment)
        assert container["command"][:2] == ["skillfleet", "worker"]
        assert "args" not in container


def test_the_command_says_modules_pool_concurrency_and_queues() -> None:
    values = pool_values(
        queues=["celery", "chat"],
        modules=["acme.chat", "acme.search"],
        pool="prefork",
        concurrency=4,
        celeryArgs=["--max-tasks-per-child=100"],
    )
    assert main_container(worker(render(values)))["command"] == [
        *("skillfleet", "worker", "acme.chat", "acme.search"),
        *("--pool", "prefork", "--concurrency", "4", "--queue", "celery", "--queue", "chat"),
        *("--", "--max-tasks-per-child=100"),
    ]


def test_probes_use_the_port_that_the_worker_opens(fleet: list[Manifest]) -> None:
    paths = {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    for deployment in workers(fleet):
        container = main_container(deployment)
        (port,) = container["ports"]
        assert env(container)["SKILLFLEET_PROBE_PORT"] == str(port["containerPort"])
        # The kubelet asks the pod's address: a server on the loopback would never answer it.
        assert env(container)["SKILLFLEET_PROBE_HOST"] == "0.0.0.0"
        for probe, path in paths.items():
            assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}


def test_no_probe_starts_a_process_in_a_worker(fleet: list[Manifest]) -> None:
    for deployment in workers(fleet):
        assert "exec" not in str(
            {k: v for k, v in main_container(deployment).items() if "Probe" in k}
        )


def test_replicas_are_absent_where_an_autoscaler_owns_them(fleet: list[Manifest]) -> None:
    scalers = [*kinds(fleet, "ScaledObject"), *kinds(fleet, "HorizontalPodAutoscaler")]
    scaled = {scaler["spec"]["scaleTargetRef"]["name"] for scaler in scalers}
    for deployment in workers(fleet):
        owned = deployment["metadata"]["name"] in scaled
        assert ("replicas" not in deployment["spec"]) is owned


def test_each_pool_has_one_scaler_of_the_kind_it_asked_for() -> None:
    pools = [
        {"name": mode.lower(), "queues": [mode], "autoscaling": {"mode": mode}}
        for mode in ("demand", "redisList", "cpu", "none")
    ]
    manifests = render({"workers": pools, "valkey": {"enabled": True}})
    scaled = {m["metadata"]["name"] for m in kinds(manifests, "ScaledObject")}
    assert scaled == {"fleet-skillfleet-worker-demand", "fleet-skillfleet-worker-redislist"}
    (hpa,) = kinds(manifests, "HorizontalPodAutoscaler")
    assert hpa["metadata"]["name"] == "fleet-skillfleet-worker-cpu"
    assert worker(manifests, "none")["spec"]["replicas"] == 2


def test_pools_scale_to_zero_only_when_asked() -> None:
    manifests = render({"workers": TWO_POOLS})
    assert one(manifests, "ScaledObject", "interactive")["spec"]["minReplicaCount"] == 3
    batch = one(manifests, "ScaledObject", "batch")["spec"]
    assert (batch["minReplicaCount"], batch["fallback"]["replicas"]) == (0, 1)
    assert one(render(), "ScaledObject", "default")["spec"]["minReplicaCount"] == 2


def test_demand_aims_at_a_share_of_the_concurrency_over_all_queues() -> None:
    manifests = render({"workers": TWO_POOLS})
    (trigger,) = one(manifests, "ScaledObject", "interactive")["spec"]["triggers"]
    assert trigger["type"] == "metrics-api"
    assert trigger["metadata"]["url"].endswith("/demand?queue=celery&queue=chat")
    assert trigger["metadata"]["valueLocation"] == "demand"
    assert (trigger["metricType"], trigger["metadata"]["targetValue"]) == ("AverageValue", "75")
    (trigger,) = one(manifests, "ScaledObject", "batch")["spec"]["triggers"]
    assert trigger["metadata"]["targetValue"] == "3"
    (trigger,) = one(render(pool_values(concurrency=1)), "ScaledObject", "default")["spec"][
        "triggers"
    ]
    assert trigger["metadata"]["targetValue"] == "1"


def test_another_exporter_can_be_asked() -> None:
    scaler = one(render(VALUE_SETS["no exporter"]), "ScaledObject", "default")
    url = scaler["spec"]["triggers"][0]["metadata"]["url"]
    assert url == "http://exporter.shared.svc:9808/demand?queue=celery"


def test_redis_lists_are_summed_and_named_as_the_broker_names_them() -> None:
    scaler = one(render(VALUE_SETS["Redis lists"]), "ScaledObject", "interactive")["spec"]
    modifiers = scaler["advanced"]["scalingModifiers"]
    assert modifiers == {"formula": "q0 + q1", "target": "75", "metricType": "AverageValue"}
    first, second = (trigger["metadata"] for trigger in scaler["triggers"])
    # Outside the default namespace the broker's lists carry its name.
    assert (first["listName"], second["listName"]) == ("blue:celery", "blue:chat")
    assert (first["address"], first["databaseIndex"]) == ("redis.data.svc:6379", "2")
    assert (first["enableTLS"], first["listLength"]) == ("true", "75")


def test_scale_in_is_slow(fleet: list[Manifest]) -> None:
    behaviors = [
        scaler["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        for scaler in kinds(fleet, "ScaledObject")
    ]
    behaviors += [hpa["spec"]["behavior"] for hpa in kinds(fleet, "HorizontalPodAutoscaler")]
    for behavior in behaviors:
        down = behavior["scaleDown"]
        assert down["stabilizationWindowSeconds"] == 300
        assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]


def test_an_unreadable_demand_never_shrinks_the_fleet(fleet: list[Manifest]) -> None:
    for scaler in kinds(fleet, "ScaledObject"):
        assert scaler["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"
        assert scaler["spec"]["fallback"]["replicas"] >= 1


def test_updates_surge_and_remove_no_pod_first(fleet: list[Manifest]) -> None:
    for deployment in workers(fleet):
        assert deployment["spec"]["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0},
        }


def test_a_disruption_budget_always_lets_a_node_drain(fleet: list[Manifest]) -> None:
    for budget in kinds(fleet, "PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] == 1
        assert "minAvailable" not in budget["spec"]


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"leaseSeconds": 20}},
        {"settings": {"extra": {"SKILLFLEET_MAX_ARGUMENTS_BYTES": "2048"}}},
        {"redis": {"url": "redis://other:6379/0"}},
        {"telemetry": {"otlpEndpoint": "http://collector:4318"}},
    ],
)
def test_pods_roll_when_their_settings_change(change: dict[str, Any]) -> None:
    def checksums(values: dict[str, Any]) -> list[str]:
        manifests = render(values)
        parts = [worker(manifests), one(manifests, "Deployment", "exporter")]
        parts.append(one(manifests, "Deployment", "flower"))
        annotations = [pod_template(part)["metadata"]["annotations"] for part in parts]
        return [annotation["checksum/settings"] for annotation in annotations]

    before, after = checksums({}), checksums(change)
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_valkey_rolls_when_its_configuration_changes() -> None:
    def checksum(memory: str) -> str:
        manifests = render({"valkey": {"enabled": True, "maxMemory": memory}})
        pod = pod_template(one(manifests, "StatefulSet", "valkey"))
        return str(pod["metadata"]["annotations"]["checksum/config"])

    assert checksum("256mb") != checksum("512mb")


def test_a_chart_version_alone_rolls_no_pod(fleet: list[Manifest]) -> None:
    for deployment in workers(fleet):
        assert "helm.sh/chart" not in pod_template(deployment)["metadata"]["labels"]


def fixed(manifests: list[Manifest]) -> dict[tuple[str, str], Any]:
    """Return the fields that no upgrade may change, by kind and name."""
    found: dict[tuple[str, str], Any] = {}
    for manifest in manifests:
        spec, name = manifest.get("spec", {}), manifest["metadata"]["name"]
        match manifest["kind"]:
            case "Deployment":
                found["Deployment", name] = spec["selector"]
            case "StatefulSet":
                changeable = {"replicas", "template", "updateStrategy", "revisionHistoryLimit"}
                found["StatefulSet", name] = {k: v for k, v in spec.items() if k not in changeable}
            case "Service":
                found["Service", name] = spec.get("clusterIP")
            case "RoleBinding":
                found["RoleBinding", name] = manifest["roleRef"]
            case "PersistentVolumeClaim":
                found["PersistentVolumeClaim", name] = spec["accessModes"]
    return found


@pytest.mark.parametrize("name", VALUE_SETS)
def test_an_upgrade_changes_nothing_that_is_fixed(name: str) -> None:
    """To another image and labels, and from a trial to any other values."""
    values = VALUE_SETS[name]
    later = {"image": {"tag": "9.9.9"}, "commonLabels": {"since": "later"}} | {
        key: value for key, value in values.items() if key not in ("image", "commonLabels")
    }
    before, after = fixed(render(values)), fixed(render(later))
    trial = fixed(render(VALUE_SETS["trial"]))
    assert before == after
    for key in before.keys() & trial.keys():
        if name != "trial without add-ons" or key[0] != "StatefulSet":
            assert before[key] == trial[key], key


def test_a_pool_s_own_telemetry_variables_stand_alone() -> None:
    def exported(extra: dict[str, str], *own: str) -> list[tuple[str, Any]]:
        values = {
            **pool_values(env=[{"name": name, "value": "mine"} for name in own]),
            "settings": {"extra": extra},
            "telemetry": {
                "otlpEndpoint": "http://collector:4318",
                "headersSecret": {"name": "otlp"},
            },
        }
        entries = main_container(worker(render(values)))["env"]
        return [(e["name"], e.get("value")) for e in entries if e["name"].startswith("OTEL_")]

    name, attributes = "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"
    assert [key for key, _ in exported({})] == [name, attributes, "OTEL_EXPORTER_OTLP_HEADERS"]
    assert exported({}, name).count((name, "mine")) == 1
    assert name not in dict(exported({name: "ours"}))
    own = (name, attributes, "OTEL_EXPORTER_OTLP_HEADERS")
    assert exported({}, *own) == [(key, "mine") for key in own]


def test_an_evicting_redis_is_refused_before_the_worker_starts() -> None:
    (check,) = pod_template(worker(render()))["spec"]["initContainers"]
    assert check["command"] == ["skillfleet", "doctor"]
    assert (
        env(check)["SKILLFLEET_REDIS_URL"]
        == env(main_container(worker(render())))["SKILLFLEET_REDIS_URL"]
    )
    assert (
        "initContainers"
        not in pod_template(worker(render(VALUE_SETS["no start-up check"])))["spec"]
    )


def test_the_trial_valkey_keeps_its_data_and_evicts_nothing() -> None:
    manifests = render({"valkey": {"enabled": True}})
    config = one(manifests, "ConfigMap", "valkey")["data"]["valkey.conf"].splitlines()
    assert {"appendonly yes", "maxmemory-policy noeviction", "maxmemory 512mb"} <= set(config)
    server = one(manifests, "StatefulSet", "valkey")
    assert server["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "data"


def test_every_process_gets_the_address_of_redis(fleet: list[Manifest]) -> None:
    settings = one(fleet, "ConfigMap", "settings")["data"]
    for deployment in kinds(fleet, "Deployment"):
        for container in containers(pod_template(deployment)):
            assert "SKILLFLEET_REDIS_URL" in settings.keys() | env(container).keys()
            assert container["envFrom"][0]["configMapRef"]["name"].endswith("settings")


def test_the_helm_test_runs_the_built_in_skill() -> None:
    pod = one(render(), "Pod", "test")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    assert container["command"] == [
        *("skillfleet", "enqueue", "fleet.echo", '{"text":"helm test of fleet"}'),
        *("--queue", "celery", "--timeout", "180", "--follow"),
    ]
    assert pod["spec"]["activeDeadlineSeconds"] > 180


def test_the_pool_that_asks_for_it_keeps_its_deletion_cost() -> None:
    pools = [{**TWO_POOLS[0], "podDeletionCost": True}, TWO_POOLS[1]]
    manifests = render({"workers": pools})
    asked, other = worker(manifests, "interactive"), worker(manifests, "batch")
    assert env(main_container(asked))["SKILLFLEET_POD_DELETION_COST"] == "true"
    assert pod_template(asked)["spec"]["automountServiceAccountToken"] is True
    assert pod_template(other)["spec"]["automountServiceAccountToken"] is False
    (role,) = kinds(manifests, "Role")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}]


def test_topology_spread_counts_the_pods_of_one_pool_and_version() -> None:
    deployment = worker(render(EVERYTHING), "batch")
    (spread,) = pod_template(deployment)["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]
    assert spread["matchLabelKeys"] == ["pod-template-hash"]

"""Values: all known, all documented, bad ones refused with a message that says what to do."""

import json
from typing import Any

import helm_python
import pytest
import yaml

from deploy.chart_readme import read_values
from tests.helm.rendering import CHART, notes, render, walk
from tests.helm.value_sets import VALUE_SETS

VALUES = (CHART / "values.yaml").read_text("utf-8")
SCHEMA = json.loads((CHART / "values.schema.json").read_text("utf-8"))
# Objects in Kubernetes' own shape, which the API server checks.
OPEN = {
    *("affinity", "tolerations", "claims", "valueFrom", "extraVolumeMounts"),
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
    *("redisTo", "apiServerTo", "workerEgress", "global"),
}


def pool(**keys: Any) -> dict[str, Any]:
    return {"workers": [{"name": "default", "queues": ["celery"], **keys}]}


REFUSED = {
    "an unknown key": ({"worker": []}, "worker"),
    "an unknown key in a pool": (pool(concurency=5), "concurency"),
    "an unknown key in depth": ({"redis": {"tls": {"ca": "x"}}}, "ca"),
    "a password in an address": ({"redis": {"url": "redis://u:p@redis:6379/0"}}, "/redis/url"),
    "an address of another kind": ({"redis": {"url": "http://redis"}}, "/redis/url"),
    "an object store of another kind": ({"artifacts": {"url": "ftp://host/x"}}, "/artifacts/url"),
    "a folder of one pod as an object store": (
        {"artifacts": {"url": "file:///objects"}},
        "/artifacts/url",
    ),
    "an unknown kind of sandbox": ({"sandbox": {"kind": "none"}}, "/sandbox/kind"),
    "sandboxes in Kubernetes without rights": (
        {"sandbox": {"kind": "kubernetes"}},
        "sandbox.kind: kubernetes needs sandbox.kubernetes.enabled",
    ),
    "rights for sandboxes of another kind": (
        {"sandbox": {"kind": "landlock", "kubernetes": {"enabled": True, "image": "x"}}},
        "sandbox.kubernetes.enabled: set sandbox.kind to kubernetes or auto",
    ),
    "sandboxes in Kubernetes of no image": (
        {"sandbox": {"kind": "auto", "kubernetes": {"enabled": True}}},
        "sandbox.kubernetes: set image",
    ),
    "a pool of sandboxes of no image": (
        {
            "sandbox": {
                "kind": "auto",
                "kubernetes": {"enabled": True, "warmPool": {"name": "a", "replicas": 1}},
            }
        },
        "warmPool.replicas: the template needs sandbox.kubernetes.image",
    ),
    "no Redis at all": (
        {"redis": {"existingSecret": {"name": ""}}},
        "set the address: redis.existingSecret.name and urlKey, or redis.url",
    ),
    "two Redis": (
        {"redis": {"url": "redis://redis:6379/0"}, "valkey": {"enabled": True}},
        "set either redis.url or valkey.enabled, not both",
    ),
    "a Redis user without a password": (
        {"redis": {"url": "redis://redis:6379/0", "username": "skillfleet-worker"}},
        "redis.existingSecret.passwordKey: a Redis user needs a password",
    ),
    "a Redis user with another one's password": (
        {
            "redis": {
                "url": "redis://redis:6379/0",
                "username": "skillfleet-worker",
                "existingSecret": {"passwordKey": "worker"},
                "users": {"flower": {"username": "skillfleet-flower"}},
            }
        },
        "redis.users.flower.passwordKey: a Redis user needs a password",
    ),
    "a Redis user of an unknown part": ({"redis": {"users": {"monitor": {}}}}, "monitor"),
    "a password without its Secret": (
        {
            "redis": {
                "url": "redis://redis:6379/0",
                "existingSecret": {"name": "", "passwordKey": "p"},
            }
        },
        "redis.existingSecret: usernameKey and passwordKey need the Secret's name",
    ),
    "an authority without TLS": (
        {"redis": {"url": "redis://redis:6379/0", "tls": {"caSecret": "ca"}}},
        "the address must start with rediss://",
    ),
    "two brokers": (
        {"broker": {"url": "amqp://rabbitmq//", "existingSecret": {"name": "x"}}},
        "set either broker.url or broker.existingSecret.name",
    ),
    "signed runs without keys to verify them": (
        {"auth": {"required": True}},
        "auth.producerKeys: auth.required needs the public keys of producers",
    ),
    "keys from two places": (
        {"auth": {"workerKeys": {"secret": "a", "configMap": "b"}}},
        "auth.workerKeys: set either secret or configMap, not both",
    ),
    "half a private key": (
        {"auth": {"workerSigningKey": {"secret": "a"}}},
        "auth.workerSigningKey: set both secret and key",
    ),
    "calls without keys to verify them": (
        {
            "auth": {
                "required": True,
                "producerKeys": {"secret": "a"},
                "workerSigningKey": {"secret": "b", "key": "k.pem"},
            }
        },
        "auth.workerKeys: runs that workers sign are refused",
    ),
    "auth as a setting": (
        {"settings": {"extra": {"SKILLFLEET_AUTH": "required"}}},
        "SKILLFLEET_AUTH",
    ),
    "a margin too short for the worker": (pool(graceMarginSeconds=9), "graceMarginSeconds"),
    "a drain without time": (pool(drainSeconds=0), "drainSeconds"),
    "a preStop without its time": (
        pool(preStop={"command": ["sleep", "5"]}),
        "preStop.seconds: set how long preStop.command may take",
    ),
    "a pool without a queue": (pool(queues=[]), "queues"),
    "a pool without a name": ({"workers": [{"queues": ["celery"]}]}, "name"),
    "a pool with a long name": ({"workers": [{"name": "a" * 21, "queues": ["q"]}]}, "name"),
    "no pool": ({"workers": []}, "/workers"),
    "two pools of one name": (
        {"workers": [{"name": "a", "queues": ["x"]}, {"name": "a", "queues": ["y"]}]},
        'two pools are named "a"',
    ),
    "queues for all pools": ({"workerDefaults": {"queues": ["q"]}}, "/workerDefaults"),
    "a queue with a comma": (pool(queues=["a,b"]), "queues/0"),
    "an unknown pool kind": (pool(pool="gevent"), "/workers/0/pool"),
    "no concurrency": (pool(concurrency=0), "concurrency"),
    "a pool without a module": (pool(modules=[]), "modules"),
    "a module that is a path": (pool(modules=["skills/support.py"]), "modules/0"),
    "a deletion cost of prefork": (
        {"workerDefaults": {"podDeletionCost": True}, **pool(pool="prefork")},
        "workers[default].podDeletionCost: prefork workers do not support it",
    ),
    "limits upside down": (
        pool(autoscaling={"minReplicas": 5, "maxReplicas": 2}),
        "minReplicas (5) is above maxReplicas (2)",
    ),
    "an HPA at zero": (
        pool(autoscaling={"mode": "cpu", "minReplicas": 0}),
        "an HPA on CPU cannot scale to zero",
    ),
    "an HPA without a request": (
        {
            "workerDefaults": {
                "autoscaling": {"mode": "cpu"},
                "resources": {"requests": {"cpu": None}},
            }
        },
        "cpu needs workers[default].resources.requests.cpu",
    ),
    "demand without an exporter": (
        {"exporter": {"enabled": False}},
        "demand needs exporter.enabled or keda.exporterUrl",
    ),
    "lists of a Redis without an address": (
        pool(autoscaling={"mode": "redisList"}),
        "KEDA cannot read the address from redis.existingSecret; set host:port",
    ),
    "lists of RabbitMQ": (
        {
            "redis": {"url": "redis://redis:6379/0"},
            "broker": {"url": "amqp://rabbitmq//"},
            **pool(autoscaling={"mode": "redisList"}),
        },
        "for RabbitMQ use mode demand",
    ),
    "Flower published without a login": (
        {"flower": {"ingress": {"enabled": True, "host": "flower.internal"}}},
        "an Ingress needs authentication: set flower.auth.basic.existingSecret",
    ),
    "Flower published nowhere": (
        {"flower": {"ingress": {"enabled": True}, "auth": {"proxy": True}}},
        "an Ingress needs a host name",
    ),
    "half an OAuth": (
        {"flower": {"auth": {"oauth": {"provider": "flower.views.auth.GitHubLoginHandler"}}}},
        "a provider needs emails, redirectUri and existingSecret",
    ),
    "a setting that has a key of its own": (
        {"settings": {"extra": {"SKILLFLEET_DRAIN_SECONDS": "600"}}},
        "SKILLFLEET_DRAIN_SECONDS",
    ),
    "a skill's variable that is the chart's": (
        pool(env=[{"name": "SKILLFLEET_REDIS_URL", "value": "redis://x"}]),
        "env/0/name",
    ),
    "root": ({"podSecurity": {"runAsUser": 0}}, "/podSecurity/runAsUser"),
    "a volume of the node": (
        pool(extraVolumes=[{"name": "x", "hostPath": {"path": "/"}}]),
        "hostPath",
    ),
    "a port for root": (pool(probes={"port": 80}), "probes/port"),
    "half a digest": ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
    "a variable that is given twice": (
        pool(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
        "workers[default].env: A is given twice",
    ),
    "two volumes of one name": (
        pool(extraVolumes=[{"name": "x", "emptyDir": {}}, {"name": "x", "secret": {}}]),
        "workers[default].extraVolumes: x is given twice",
    ),
    "a volume that is the chart's": (
        pool(extraVolumes=[{"name": "tmp", "emptyDir": {}}]),
        "extraVolumes/0/name",
    ),
    "an update that cannot start": (
        pool(rollingUpdate={"maxSurge": "0%", "maxUnavailable": 0}),
        "workers[default].rollingUpdate: with maxSurge and maxUnavailable both 0",
    ),
    "a label that is too long": ({"commonLabels": {"team": "a" * 64}}, "/commonLabels/team"),
    "a label that is a sentence": (pool(podLabels={"team": "us two"}), "podLabels/team"),
    "a Redis without a known port": (
        {"networkPolicy": {"redisPorts": []}},
        "networkPolicy.redisPorts: the addresses come from Secrets, so list the ports",
    ),
    "a name that no Service may have": ({"fullnameOverride": "1fleet"}, "fullnameOverride"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_values_are_refused_with_their_place_or_the_way_out(case: str) -> None:
    values, message = REFUSED[case]
    with pytest.raises(helm_python.HelmError) as refused:
        render(values)
    assert message in str(refused.value)


def test_a_release_that_starts_with_a_digit_gets_advice() -> None:
    with pytest.raises(helm_python.HelmError, match="set fullnameOverride, or choose another"):
        render(name="1fleet")
    assert render({"fullnameOverride": "fleet"}, name="1fleet")


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its reference, or its first alternative, taken in."""
    if "allOf" in schema:
        return resolve(schema["allOf"][0])
    reference = schema.get("$ref")
    if reference is None:
        return schema
    definition: dict[str, Any] = SCHEMA["definitions"][reference.rsplit("/", 1)[1]]
    return definition


def missing_from_schema(values: dict[str, Any], schema: dict[str, Any], path: str) -> list[str]:
    properties = resolve(schema).get("properties")
    if properties is None:
        return []
    missing = [f"{path}.{key}" for key in values if key not in properties]
    for key, value in values.items():
        if isinstance(value, dict) and key in properties:
            missing += missing_from_schema(value, properties[key], f"{path}.{key}")
    return missing


def test_every_value_is_in_the_schema() -> None:
    assert missing_from_schema(yaml.safe_load(VALUES), SCHEMA, "values") == []


def test_every_key_of_the_schema_has_a_default() -> None:
    values = yaml.safe_load(VALUES)
    assert SCHEMA["properties"].keys() - {"global"} == values.keys()
    keys = SCHEMA["definitions"]["pool"]["properties"].keys() - {"name", "queues"}
    assert keys == values["workerDefaults"].keys()


def test_every_value_is_documented_with_its_meaning() -> None:
    documented = {value.path for value in read_values(VALUES)}
    leaves = {
        ".".join(path)
        for path, value in walk(yaml.safe_load(VALUES))
        if path and not (isinstance(value, dict) and value)
    }
    undocumented = {
        leaf
        for leaf in leaves
        if not any(leaf == path or leaf.startswith(f"{path}.") for path in documented)
    }
    assert undocumented == set()


def test_the_schema_is_closed_everywhere() -> None:
    for path, schema in walk(SCHEMA):
        if isinstance(schema, dict) and schema.get("type") == "object":
            names = [part for part in path if part not in ("items", "properties")]
            assert "additionalProperties" in schema or names[-1] in OPEN, path


def test_a_pool_may_turn_off_what_is_on_by_default() -> None:
    values = pool(autoscaling={"mode": "none"}, replicas=0, podDisruptionBudget={"enabled": False})
    manifests = render({"workerDefaults": {"podDeletionCost": True}, **values})
    kinds = {manifest["kind"] for manifest in manifests}
    assert not {"PodDisruptionBudget", "ScaledObject"} & kinds
    assert "Role" in kinds


@pytest.mark.parametrize("name", VALUE_SETS)
def test_notes_say_what_to_do_next(name: str) -> None:
    text = notes(VALUE_SETS[name])
    signs = "auth.producerSigningKey" if name == "signed runs without calls" else "helm test fleet"
    assert signs in text
    assert "component=worker" in text
    assert ("in any user's name" in text) is ("signed" not in name)


def test_notes_name_the_secret_that_pods_wait_for() -> None:
    assert "create secret generic skillfleet-redis --from-literal=url=" in notes()
    assert "built-in skills only" in notes()
    assert "built-in skills only" not in notes({"workerDefaults": {"modules": ["acme.chat"]}})
    assert "serves the default queue" not in notes()
    assert "serves the default queue celery" in notes(pool(queues=["batch"]))
    assert "for trials" in notes({"valkey": {"enabled": True}})

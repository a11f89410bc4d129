"""Safe by default: pods without rights, closed networks, no secret in sight, Flower guarded."""

import re
from typing import Any

import pytest
from flower.urls import handlers

from tests.helm.rendering import (
    Manifest,
    containers,
    env,
    kinds,
    one,
    pod_template,
    pods,
    render,
    walk,
    worker,
)
from tests.helm.value_sets import EVERYTHING, VALUE_SETS

RESTRICTED_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}


def test_every_pod_meets_the_restricted_pod_security_standard(fleet: list[Manifest]) -> None:
    for _, pod in pods(fleet):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["securityContext"].get("runAsUser") != 0
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for volume in spec["volumes"]:
            assert volume.keys() - {"name"} <= RESTRICTED_VOLUMES
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_every_container_says_what_it_needs_and_may_use(fleet: list[Manifest]) -> None:
    for _, pod in pods(fleet):
        for container in containers(pod):
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_no_pod_gets_a_token_unless_it_needs_one(fleet: list[Manifest]) -> None:
    for account in kinds(fleet, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for _, pod in pods(fleet):
        variables = {name for c in containers(pod) for name in env(c)}
        needs = {"SKILLFLEET_POD_DELETION_COST", "SKILLFLEET_SANDBOX_IMAGE"}
        wanted = bool(variables & needs)
        assert pod["spec"]["automountServiceAccountToken"] is wanted


def test_users_and_groups_may_be_left_to_the_platform() -> None:
    manifests = render(VALUE_SETS["platform chooses users"])
    context = pod_template(worker(manifests))["spec"]["securityContext"]
    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    openshift = render({"podSecurity": {"runAsUser": 1000700000}})
    assert pod_template(worker(openshift))["spec"]["securityContext"]["runAsUser"] == 1000700000


def test_each_part_has_a_network_policy_for_both_directions(fleet: list[Manifest]) -> None:
    policies = kinds(fleet, "NetworkPolicy")
    parts = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for _, pod in pods(fleet)}
    key = "app.kubernetes.io/component"
    covered = {policy["spec"]["podSelector"]["matchLabels"].get(key) for policy in policies}
    covered -= {None}  # that of sandboxes, which are no pods of the chart
    assert covered in (parts, set())
    for policy in policies:
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_network_policies_are_there_unless_turned_off() -> None:
    assert kinds(render(), "NetworkPolicy")
    assert not kinds(render(VALUE_SETS["open network"]), "NetworkPolicy")


def ports(rules: list[dict[str, Any]]) -> set[Any]:
    return {port["port"] for rule in rules for port in rule["ports"]}


def callers(policy: Manifest) -> set[str]:
    """The namespaces that may come in."""
    found = walk(policy["spec"]["ingress"])
    return {value for path, value in found if path[-1:] == ("kubernetes.io/metadata.name",)}


def test_only_keda_reaches_the_exporter_and_no_pod_flower_by_default() -> None:
    manifests = render()
    assert callers(one(manifests, "NetworkPolicy", "exporter")) == {"keda"}
    assert one(manifests, "NetworkPolicy", "flower")["spec"]["ingress"] == []
    assert one(manifests, "NetworkPolicy", "worker")["spec"]["ingress"] == []


def test_prometheus_and_the_ingress_controller_come_in_when_they_are_used() -> None:
    manifests = render(EVERYTHING)
    assert callers(one(manifests, "NetworkPolicy", "exporter")) == {"keda", "monitoring"}
    flower = one(manifests, "NetworkPolicy", "flower")
    assert callers(flower) == {"ingress-nginx", "monitoring"}
    worker_policy = one(manifests, "NetworkPolicy", "worker")
    assert callers(worker_policy) == {"monitoring"}
    assert ports(worker_policy["spec"]["ingress"]) == {8081}


def test_pods_reach_redis_the_broker_and_the_collector_wherever_they_listen() -> None:
    values = {
        "redis": {"url": "rediss://redis.data.svc:6390/0"},
        "broker": {"url": "amqps://rabbitmq.data.svc//"},
        "telemetry": {"otlpEndpoint": "http://collector:4318"},
    }
    policies = kinds(render(values), "NetworkPolicy")
    for policy in policies:
        assert {53, 6390, 5671} <= ports(policy["spec"]["egress"])
    # Only workers export telemetry.
    exporting = [p for p in policies if 4318 in ports(p["spec"]["egress"])]
    assert [p["metadata"]["name"] for p in exporting] == ["fleet-skillfleet-worker"]


def test_secrets_go_to_those_who_need_them_only() -> None:
    holders: dict[str, set[str]] = {}
    for name, pod in pods(render(EVERYTHING)):
        for container in containers(pod):
            for value in env(container).values():
                if isinstance(value, dict) and "secretKeyRef" in value:
                    holders.setdefault(value["secretKeyRef"]["name"], set()).add(name)
    fleet = "fleet-skillfleet"
    workers = {f"{fleet}-worker-interactive", f"{fleet}-worker-batch"}
    assert holders["otlp"] == workers
    assert holders["rabbitmq"] == {*workers, f"{fleet}-flower", f"{fleet}-test"}
    assert holders["flower-auth"] == {f"{fleet}-flower"}


def test_only_workers_reach_the_object_store_and_know_its_credentials() -> None:
    for name, pod in pods(render(EVERYTHING)):
        for container in containers(pod):
            variables = env(container)
            secrets = [
                each["secretRef"]["name"]
                for each in container.get("envFrom", ())
                if "secretRef" in each
            ]
            if "-worker-" in name and container["name"] in ("worker", "doctor"):
                assert variables["SKILLFLEET_ARTIFACTS_URL"] == "s3://artifacts/fleet"
                assert variables["AWS_REGION"] == "eu-central-1"
                assert variables["AWS_ENDPOINT_URL"] == "https://s3.internal"
                assert secrets == ["bucket"]
            else:
                assert not [key for key in variables if "ARTIFACTS" in key or "AWS" in key]
                assert secrets == []


def test_artifacts_stay_in_redis_by_default() -> None:
    for _, pod in pods(render()):
        for container in containers(pod):
            assert "SKILLFLEET_ARTIFACTS_URL" not in env(container)
            assert not [each for each in container.get("envFrom", ()) if "secretRef" in each]


def test_only_workers_and_their_check_mount_the_workspaces() -> None:
    manifests = render(EVERYTHING)
    claim = one(manifests, "PersistentVolumeClaim", "workspaces")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["spec"]["storageClassName"] == "shared-files"
    assert claim["spec"]["resources"]["requests"]["storage"] == "100Gi"
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    for name, pod in pods(manifests):
        for container in containers(pod):
            variables = env(container)
            mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
            if "-worker-" in name and container["name"] in ("worker", "doctor"):
                assert variables["SKILLFLEET_WORKSPACE"] == "directory"
                assert variables["SKILLFLEET_WORKSPACE_DIRECTORY"] == mounts["workspaces"]
                volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
                claimed = volumes["workspaces"]["persistentVolumeClaim"]["claimName"]
                assert claimed == claim["metadata"]["name"]
            else:
                assert "workspaces" not in mounts
                assert not [key for key in variables if "WORKSPACE" in key]


def test_an_existing_claim_of_workspaces_is_used_and_by_default_there_is_none() -> None:
    given = render({"workspaces": {"enabled": True, "existingClaim": "files"}})
    claims_made = [each["metadata"]["name"] for each in kinds(given, "PersistentVolumeClaim")]
    assert claims_made == ["fleet-skillfleet-flower"]
    for manifests, claims in ((given, [{"claimName": "files"}]), (render(), [])):
        for name, pod in pods(manifests):
            if "-worker-" in name:
                found = [
                    each["persistentVolumeClaim"]
                    for each in pod["spec"]["volumes"]
                    if "persistentVolumeClaim" in each
                ]
                assert found == claims


def test_names_are_asked_for_where_the_cluster_s_dns_listens() -> None:
    for policy in kinds(render({"networkPolicy": {"dnsPorts": [5353]}}), "NetworkPolicy"):
        (dns, *others) = policy["spec"]["egress"]
        assert dns == {"ports": [{"port": 5353, "protocol": p} for p in ("UDP", "TCP")]}
        assert 53 not in ports(others)


def test_skills_reach_public_addresses_only() -> None:
    (rule,) = (
        rule
        for rule in one(render(), "NetworkPolicy", "worker")["spec"]["egress"]
        if ports([rule]) == {443}
    )
    blocks = [peer["ipBlock"] for peer in rule["to"]]
    assert {"10.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16"} <= set(blocks[0]["except"])
    closed = one(render({"networkPolicy": {"publicHttps": False}}), "NetworkPolicy", "worker")
    assert 443 not in ports(closed["spec"]["egress"])


def test_the_trial_valkey_is_reached_from_its_namespace_only() -> None:
    manifests = render({"valkey": {"enabled": True}})
    policy = one(manifests, "NetworkPolicy", "valkey")["spec"]
    assert policy["ingress"][0]["from"] == [{"podSelector": {}}]
    assert policy["egress"] == []


def test_every_part_of_a_trial_reaches_its_valkey() -> None:
    manifests = render({"valkey": {"enabled": True}})
    (container,) = pod_template(one(manifests, "StatefulSet", "valkey"))["spec"]["containers"]
    labels = one(manifests, "NetworkPolicy", "valkey")["spec"]["podSelector"]["matchLabels"]
    # By number: not every network plugin resolves port names of other pods.
    rule = {
        "ports": [{"port": container["ports"][0]["containerPort"], "protocol": "TCP"}],
        "to": [{"podSelector": {"matchLabels": labels}}],
    }
    for part in ("worker", "exporter", "flower", "test"):
        assert rule in one(manifests, "NetworkPolicy", part)["spec"]["egress"]


def test_only_generated_passwords_are_secrets_of_the_chart(fleet: list[Manifest]) -> None:
    for secret in kinds(fleet, "Secret"):
        assert secret["metadata"]["name"].endswith("-valkey")
        assert secret["data"].keys() == {"worker", "producer", "exporter", "flower"}
        for password in secret["data"].values():
            assert re.fullmatch(r"[A-Za-z0-9+/=]{40,}", password)


def test_each_user_of_each_trial_gets_a_password_of_its_own() -> None:
    trials = [one(render({"valkey": {"enabled": True}}), "Secret", "valkey") for _ in range(3)]
    assert len({password for trial in trials for password in trial["data"].values()}) == 12


def redis_users(name: str) -> dict[str, tuple[Any, Any]]:
    """User and password of each part's containers, by component."""
    found: dict[str, tuple[Any, Any]] = {}
    for _, pod in pods(render(VALUE_SETS[name])):
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for container in containers(pod):
            values = env(container)
            if "SKILLFLEET_REDIS_PASSWORD" in values:
                user = values.get("SKILLFLEET_REDIS_USERNAME")
                pair = (user, values["SKILLFLEET_REDIS_PASSWORD"]["secretKeyRef"])
                assert found.setdefault(component, pair) == pair
    return found


def test_each_part_of_a_trial_is_a_redis_user_of_its_own() -> None:
    secret = "fleet-skillfleet-valkey"
    roles = {"worker": "worker", "exporter": "exporter", "flower": "flower", "test": "producer"}
    assert redis_users("trial") == {
        part: (f"skillfleet-{role}", {"name": secret, "key": role}) for part, role in roles.items()
    }


def test_each_part_may_be_a_redis_user_of_its_own() -> None:
    users = redis_users("Redis users")
    for part in ("worker", "exporter", "flower"):
        assert users[part] == (f"skillfleet-{part}", {"name": "redis-users", "key": part})
    secret = "redis-producer"
    assert users["test"] == (
        {"secretKeyRef": {"name": secret, "key": "user"}},
        {"name": secret, "key": "password"},
    )
    # Without users of their own, all parts are the workers'.
    assert len({str(user) for user in redis_users("external Redis with TLS").values()}) == 1


def test_a_redis_user_may_come_with_its_url() -> None:
    manifests = render(VALUE_SETS["Redis users by URL"])
    urls = {}
    for _, pod in pods(manifests):
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for container in containers(pod):
            urls[component] = env(container)["SKILLFLEET_REDIS_URL"]["secretKeyRef"]
    keys = {part: ("skillfleet-redis", part) for part in ("worker", "exporter", "flower")}
    keys["test"] = ("redis-producer", "worker")
    assert {part: (url["name"], url["key"]) for part, url in urls.items()} == keys


def test_keda_reads_lists_as_the_exporter_s_user() -> None:
    manifests = render(VALUE_SETS["Redis users"])
    (trigger,) = one(manifests, "ScaledObject", "lists")["spec"]["triggers"]
    assert trigger["metadata"]["username"] == "skillfleet-exporter"
    (authentication,) = kinds(manifests, "TriggerAuthentication")
    assert authentication["spec"]["secretTargetRef"] == [
        {"parameter": "password", "name": "redis-users", "key": "exporter"},
        {"parameter": "ca", "name": "redis-ca", "key": "ca.crt"},
    ]


def test_passwords_never_stand_in_a_command_or_a_setting(fleet: list[Manifest]) -> None:
    for _, pod in pods(fleet):
        for container in containers(pod):
            for name, value in env(container).items():
                harmless = value in ("required", "true") or str(value).startswith(
                    "/etc/skillfleet/"
                )
                if re.search("PASSWORD|SECRET$|AUTH|_KEY|HEADERS", name) and not harmless:
                    assert isinstance(value, dict), name


def flower_ingress(values: dict[str, Any]) -> list[dict[str, Any]]:
    (ingress,) = kinds(render(values), "Ingress")
    (rule,) = ingress["spec"]["rules"]
    paths: list[dict[str, Any]] = rule["http"]["paths"]
    return paths


def routed(paths: list[dict[str, Any]], request: str) -> bool:
    """Return whether an Ingress with these paths takes a request, by the rules of pathType."""
    for path in paths:
        prefix = path["path"].rstrip("/")
        whole = path["pathType"] == "Exact"
        if request == path["path"] or (not whole and f"{request}/".startswith(f"{prefix}/")):
            return True
    return False


@pytest.mark.parametrize(
    ("name", "prefix"), [("everything", ""), ("Flower behind OAuth", "/flower")]
)
def test_flowers_pages_are_published_and_its_open_endpoints_are_not(name: str, prefix: str) -> None:
    paths = flower_ingress(VALUE_SETS[name])
    for page in ("/", "/workers", "/worker/w1@pod", "/tasks", "/tasks/datatable", "/task/42"):
        assert routed(paths, prefix + page), page
    for page in ("/broker", "/api/workers", "/static/css/flower.css", "/login", "/logout"):
        assert routed(paths, prefix + page), page
    for page in ("/metrics", "/healthcheck"):
        assert not routed(paths, prefix + page), page


def example_path(handler: Any) -> str:
    """A path that one of Flower's routes answers."""
    pattern = handler[0] if isinstance(handler, tuple) else handler.regex.pattern
    return re.sub(r"\(.+\)", "x", pattern).removesuffix("$").removesuffix("/?")


def test_every_route_of_flower_but_the_open_ones_is_published() -> None:
    paths = flower_ingress(EVERYTHING)
    hidden = {path for path in map(example_path, handlers) if not routed(paths, path)}
    assert hidden == {"/metrics", "/healthcheck", ".*"}


def test_flowers_password_comes_from_the_secret() -> None:
    (container,) = pod_template(one(render(EVERYTHING), "Deployment", "flower"))["spec"][
        "containers"
    ]
    reference = {"secretKeyRef": {"name": "flower-auth", "key": "basic-auth"}}
    assert env(container)["FLOWER_BASIC_AUTH"] == reference
    assert "auth" not in " ".join(container["command"])


def auth_env(pod: Manifest) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    return {k: v for k, v in env(container).items() if k.startswith("SKILLFLEET_AUTH")}


def test_workers_check_tokens_and_only_who_asks_for_runs_has_a_private_key() -> None:
    folder = "/etc/skillfleet"
    found = dict(pods(render(VALUE_SETS["signed runs"])))
    assert auth_env(found["fleet-skillfleet-worker-default"]) == {
        "SKILLFLEET_AUTH": "required",
        "SKILLFLEET_AUTH_KEYS": f"{folder}/producer-keys",
        "SKILLFLEET_AUTH_WORKER_KEYS": f"{folder}/worker-keys",
        "SKILLFLEET_AUTH_SIGNING_KEY_FILE": f"{folder}/signing-key/worker.private.pem",
    }
    assert auth_env(found["fleet-skillfleet-test"]) == {
        "SKILLFLEET_AUTH": "required",
        "SKILLFLEET_AUTH_SIGNING_KEY_FILE": f"{folder}/signing-key/backend.private.pem",
    }
    (worker,) = found["fleet-skillfleet-worker-default"]["spec"]["containers"]
    assert env(worker)["SKILLFLEET_ANSWER_KEYS"] == f"{folder}/answer-keys"
    assert "answer-keys" not in str(found["fleet-skillfleet-test"])
    for part in ("exporter", "flower"):
        assert auth_env(found[f"fleet-skillfleet-{part}"]) == {}
        assert "key" not in str(found[f"fleet-skillfleet-{part}"]["spec"]["volumes"])


def test_keys_may_be_handed_out_before_tokens_are_required() -> None:
    values = {"auth": {**VALUE_SETS["signed runs"]["auth"], "required": False}}
    pod = pod_template(worker(render(values)))
    assert "SKILLFLEET_AUTH" not in auth_env(pod)
    assert len(auth_env(pod)) == 3


def test_without_a_key_to_sign_with_there_is_no_helm_test() -> None:
    manifests = render(VALUE_SETS["signed runs without calls"])
    assert not kinds(manifests, "Pod")
    assert not [m for m in manifests if m["metadata"]["name"].endswith("-test")]


def test_secrets_of_skills_are_files_in_one_folder() -> None:
    (container,) = pod_template(worker(render(EVERYTHING), "batch"))["spec"]["containers"]
    folder = env(container)["SKILLFLEET_SECRETS_DIR"]
    (mount,) = (m for m in container["volumeMounts"] if m["name"] == "secrets")
    assert (mount["mountPath"], mount["readOnly"]) == (folder, True)
    (without,) = pod_template(worker(render()))["spec"]["containers"]
    assert "SKILLFLEET_SECRETS_DIR" not in env(without)


def test_an_image_may_be_pinned_by_digest() -> None:
    (container,) = pod_template(worker(render(EVERYTHING), "batch"))["spec"]["containers"]
    assert container["image"] == "registry.internal/skills:0.1.0@sha256:" + "a" * 64


def test_a_pool_s_own_image_takes_no_digest_of_another() -> None:
    one_digest, other_digest = ("sha256:" + letter * 64 for letter in "ab")

    def image(own: dict[str, str], default: dict[str, str] | None = None) -> str:
        values = {
            "image": {"repository": "acme/skills", "tag": "1", "digest": one_digest},
            "workerDefaults": {"image": default or {}},
            "workers": [{"name": "default", "queues": ["celery"], "image": own}],
        }
        (container,) = pod_template(worker(render(values)))["spec"]["containers"]
        return str(container["image"])

    assert image({}) == f"acme/skills:1@{one_digest}"
    assert image({"repository": "acme/gpu"}) == "acme/gpu:1"
    assert image({"tag": "2"}) == "acme/skills:2"
    assert image({"tag": "2"}, {"digest": other_digest}) == "acme/skills:2"
    assert image({"digest": other_digest}) == f"acme/skills:1@{other_digest}"


def test_no_rule_of_a_policy_opens_every_port(fleet: list[Manifest]) -> None:
    for policy in kinds(fleet, "NetworkPolicy"):
        for rule in [*policy["spec"]["ingress"], *policy["spec"]["egress"]]:
            assert rule["ports"], policy["metadata"]["name"]

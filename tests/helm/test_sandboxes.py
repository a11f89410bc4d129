"""Sandboxes of the chart: rights, network and objects of agent-sandbox only where asked for."""

from typing import Any

from tests.helm.rendering import Manifest, containers, env, kinds, one, pods, render

KUBERNETES = {"enabled": True, "image": "runtime:1", "runtimeClass": "gvisor"}


def with_sandboxes(**kubernetes: Any) -> list[Manifest]:
    return render({"sandbox": {"kind": "auto", "kubernetes": {**KUBERNETES, **kubernetes}}})


def worker_variables(manifests: list[Manifest]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in env(container).items() if "SANDBOX" in key}
        for name, pod in pods(manifests)
        if "-worker-" in name
        for container in containers(pod)
        if container["name"] in ("worker", "doctor")
    ]


def test_nothing_is_made_and_no_right_given_by_default() -> None:
    manifests = render()
    assert kinds(manifests, "Role") == []
    assert not [each for each in manifests if "x-k8s.io" in each["apiVersion"].split("/")[0]
                and not each["apiVersion"].startswith("networking")]  # fmt: skip
    assert set(map(str, worker_variables(manifests))) == {"{}"}


def test_a_local_kind_needs_a_variable_only() -> None:
    manifests = render({"sandbox": {"kind": "landlock"}})
    assert kinds(manifests, "Role") == []
    for variables in worker_variables(manifests):
        assert variables == {"SKILLFLEET_SANDBOX": "landlock"}


def test_workers_may_only_make_and_delete_what_they_need() -> None:
    rules = one(with_sandboxes(), "Role", "sandbox")["rules"]
    verbs = ["create", "get", "list", "delete"]
    sandboxes = {"apiGroups": ["agents.x-k8s.io"], "resources": ["sandboxes"], "verbs": verbs}
    claims = {
        "apiGroups": ["extensions.agents.x-k8s.io"],
        "resources": ["sandboxclaims"],
        "verbs": verbs,
    }
    assert rules == [sandboxes]
    assert one(with_sandboxes(warmPool={"replicas": 1}), "Role", "sandbox")["rules"] == [
        claims,
        sandboxes,
    ]
    assert one(with_sandboxes(image="", warmPool={"name": "a"}), "Role", "sandbox")["rules"] == [
        claims
    ]
    (subject,) = one(with_sandboxes(), "RoleBinding", "sandbox")["subjects"]
    assert subject["name"] == "fleet-skillfleet-worker"


def test_a_pool_of_the_release_is_claimed_and_has_the_runtime_class() -> None:
    manifests = with_sandboxes(warmPool={"replicas": 2})
    pool, template = (
        one(manifests, "SandboxWarmPool", "sandbox"),
        one(manifests, "SandboxTemplate", "sandbox"),
    )
    assert pool["spec"]["replicas"] == 2
    assert pool["spec"]["sandboxTemplateRef"]["name"] == template["metadata"]["name"]
    assert template["spec"]["networkPolicyManagement"] == "Unmanaged"
    pod = template["spec"]["podTemplate"]["spec"]
    assert pod["runtimeClassName"] == "gvisor"
    assert pod["automountServiceAccountToken"] is False
    for variables in worker_variables(manifests):
        assert variables == {
            "SKILLFLEET_SANDBOX": "auto",
            "SKILLFLEET_SANDBOX_WARM_POOL": pool["metadata"]["name"],
            "SKILLFLEET_SANDBOX_IMAGE": "runtime:1",
            "SKILLFLEET_SANDBOX_RUNTIME_CLASS": "gvisor",
        }


def test_sandboxes_are_reached_by_workers_and_reach_nothing() -> None:
    manifests = with_sandboxes(warmPool={"replicas": 2})
    policy = one(manifests, "NetworkPolicy", "sandbox")["spec"]
    assert policy["egress"] == []
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    selected = peer["podSelector"]["matchLabels"]
    for name, pod in pods(manifests):
        labels = pod["metadata"]["labels"]
        assert (selected.items() <= labels.items()) is ("-worker-" in name)
    template = one(manifests, "SandboxTemplate", "sandbox")
    labels = template["spec"]["podTemplate"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    egress = one(manifests, "NetworkPolicy", "worker")["spec"]["egress"]
    assert {"port": 8888, "protocol": "TCP"} in [port for r in egress for port in r["ports"]]


def test_a_router_is_reached_instead() -> None:
    manifests = with_sandboxes(routerUrl="http://sandbox-router-svc.agents:8080")
    egress = one(manifests, "NetworkPolicy", "worker")["spec"]["egress"]
    open_ports = [port["port"] for rule in egress for port in rule["ports"]]
    assert 8080 in open_ports
    assert 8888 not in open_ports
    (rule,) = one(manifests, "NetworkPolicy", "sandbox")["spec"]["ingress"]
    assert rule["from"][0]["podSelector"]["matchLabels"] == {"app": "sandbox-router"}

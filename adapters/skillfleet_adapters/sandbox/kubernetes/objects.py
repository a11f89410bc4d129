"""The objects of agent-sandbox that the adapter creates, and what their status says."""

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from skillfleet.ports.sandbox import SandboxSpec
from skillfleet.ports.scope import FLEET_LABEL, LEASE_LABEL, RUN_LABEL
from skillfleet_adapters.sandbox.kubernetes.api import CLAIM, SANDBOX, Resource

COMPONENT_LABEL: Final = "skillfleet.component"
"""The label by which a NetworkPolicy selects the pods of sandboxes."""
COMPONENT: Final = "sandbox"
_KEYS: Final = (FLEET_LABEL, RUN_LABEL, LEASE_LABEL)
_LABEL: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_FINAL_REASONS: Final = frozenset({
    "ClaimExpired", "EnvVarsInjectionRejected", "InvalidMetadata", "SandboxExpired",
    "TemplateNotFound", "VolumeClaimTemplatesError", "WarmPoolNotFound", "PodFailed",
    "PodSucceeded",
})  # fmt: skip
"""The reasons of a condition that waiting does not change."""


def label_value(value: str) -> str:
    """Return the text as the value of a label: itself where Kubernetes allows it, else a digest."""
    if _LABEL.fullmatch(value):
        return value
    return hashlib.sha256(value.encode()).hexdigest()[:40]


def fleet_selector(fleet: str) -> str:
    """Return the selector of all objects of a fleet."""
    return f"{COMPONENT_LABEL}={COMPONENT},{FLEET_LABEL}={label_value(fleet)}"


def metadata(name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata of an object: labels to select, annotations with the exact values."""
    values = {key: labels[key] for key in _KEYS}
    selected = {key: label_value(value) for key, value in values.items()}
    return {
        "name": name,
        "labels": selected | {COMPONENT_LABEL: COMPONENT},
        "annotations": values,
    }


def attempt_of(found: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Return fleet, run id and lease of an object; None for one of another origin."""
    annotations = (found.get("metadata") or {}).get("annotations") or {}
    fleet, run_id, lease = (str(annotations.get(key, "")) for key in _KEYS)
    return (fleet, run_id, lease) if fleet and run_id and lease else None


def claim(meta: Mapping[str, Any], pool: str, until: datetime) -> dict[str, Any]:
    """Return a claim on a sandbox of a warm pool; the cluster deletes it at a time in any case."""
    return {
        "apiVersion": CLAIM.api_version,
        "kind": CLAIM.kind,
        "metadata": dict(meta),
        "spec": {
            "warmPoolRef": {"name": pool},
            "lifecycle": {"shutdownTime": _time(until), "shutdownPolicy": "Delete"},
            # The controller allows no labels of other domains on the pods of a pool.
            "additionalPodMetadata": {"annotations": dict(meta["annotations"])},
        },
    }


@dataclass(frozen=True)
class Pods:
    """Common parts of the pods of sandboxes that need no pool."""

    runtime_class: str
    port: int


def sandbox(
    meta: Mapping[str, Any], spec: SandboxSpec, image: str, pods: Pods, until: datetime
) -> dict[str, Any]:
    """Return a sandbox of its own pod: unprivileged, without a token, of limited size."""
    size = {"memory": f"{spec.memory_mib}Mi", "cpu": f"{round(spec.cpus * 1000)}m"}
    container = {
        "name": "sandbox",
        "image": image,
        "ports": [{"containerPort": pods.port}],
        "readinessProbe": {"httpGet": {"path": "/", "port": pods.port}, "periodSeconds": 1},
        "resources": {
            "requests": size,
            "limits": size | {"ephemeral-storage": f"{spec.memory_mib}Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    if pods.runtime_class:
        pod["runtimeClassName"] = pods.runtime_class
    return {
        "apiVersion": SANDBOX.api_version,
        "kind": SANDBOX.kind,
        "metadata": dict(meta),
        "spec": {
            "podTemplate": {"metadata": {"labels": dict(meta["labels"])}, "spec": pod},
            "shutdownTime": _time(until),
            "shutdownPolicy": "Delete",
        },
    }


@dataclass(frozen=True)
class State:
    """Status of a claim or of a sandbox."""

    ready: bool
    """True once its pod can be called."""
    failed: bool
    """True once waiting is of no use."""
    reason: str
    """The cluster's words on why it is not ready."""
    name: str
    """The name of the sandbox: a claim gets one of the pool's."""
    address: str
    """The address of the pod; empty without one."""


def state_of(resource: Resource, found: Mapping[str, Any]) -> State:
    """Read the status of an object."""
    status = found.get("status") or {}
    inner = (status.get("sandbox") or {}) if resource is CLAIM else status
    own_name = (found.get("metadata") or {}).get("name", "")
    name = inner.get("name", "") if resource is CLAIM else own_name
    conditions = [each for each in status.get("conditions") or [] if isinstance(each, dict)]
    ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    bad = [
        f"{each.get('reason')}: {each.get('message', '')}"
        for each in conditions
        if (each.get("type") in ("Ready", "PodScheduled")) and each.get("status") != "True"
    ]
    reasons = {each.get("reason") for each in conditions}
    address = _address(inner.get("podIPs") or [])
    return State(
        ready=ready and bool(name and address),
        failed=not ready and bool(reasons & _FINAL_REASONS),
        reason="; ".join(bad) or "the controller of agent-sandbox has not reported on it",
        name=name,
        address=address,
    )


def _address(addresses: "list[Any]") -> str:
    for each in addresses:
        try:
            return str(ipaddress.ip_address(each))
        except ValueError:
            continue
    return ""


def _time(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")

"""Strict schemas of agent-sandbox's objects: the fields of v1beta1 that its API reference names.

Written after the API types of kubernetes-sigs/agent-sandbox v0.5.6; a field that they do not have
is refused, as the API server does with strict validation. Pods are checked by the schemas of
Kubernetes itself.
"""

from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]

KUBERNETES = "1.31"

_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_LABEL = {
    "type": "string",
    "maxLength": 63,
    "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
}
_LABELS = {
    "type": "object",
    "propertyNames": {"pattern": "^([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"},
    "additionalProperties": _LABEL,
}
_POD_METADATA = {
    "type": "object",
    "properties": {"labels": _LABELS, "annotations": _TEXTS},
    "additionalProperties": False,
}
_CLAIM_POD_METADATA = {
    "type": "object",
    "properties": {
        # The controller's own rule: labels of its allowed domain only.
        "labels": _LABELS | {"propertyNames": {"pattern": r"^([a-z0-9.-]+\.)?sandbox\.users\.io/"}},
        "annotations": _TEXTS,
    },
    "additionalProperties": False,
}
_TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}


def _object(api_version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {
                "type": "string",
                "maxLength": 63,
                "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            },
            "namespace": {"type": "string"},
            "labels": _LABELS,
            "annotations": _TEXTS,
        },
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": api_version},
            "kind": {"const": kind},
            "metadata": metadata,
            "spec": {"type": "object", "additionalProperties": False, **spec},
        },
        "additionalProperties": False,
    }


_BLUEPRINT = {
    "podTemplate": {
        "type": "object",
        "required": ["spec"],
        "properties": {"spec": {"type": "object"}, "metadata": _POD_METADATA},
        "additionalProperties": False,
    },
    "volumeClaimTemplates": {"type": "array"},
    "service": {"type": "boolean"},
}
_EXTENSIONS = "extensions.agents.x-k8s.io/v1beta1"

SCHEMAS = {
    "Sandbox": _object(
        "agents.x-k8s.io/v1beta1",
        "Sandbox",
        {
            "required": ["podTemplate"],
            "properties": _BLUEPRINT
            | {
                "shutdownTime": _TIME,
                "shutdownPolicy": {"enum": ["Delete", "Retain"]},
                "operatingMode": {"enum": ["Running", "Suspended"]},
            },
        },
    ),
    "SandboxClaim": _object(
        _EXTENSIONS,
        "SandboxClaim",
        {
            "required": ["warmPoolRef"],
            "properties": {
                "warmPoolRef": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}},
                    "additionalProperties": False,
                },
                "lifecycle": {
                    "type": "object",
                    "properties": {
                        "shutdownTime": _TIME,
                        "ttlSecondsAfterFinished": {"type": "integer", "minimum": 0},
                        "shutdownPolicy": {"enum": ["Delete", "DeleteForeground", "Retain"]},
                    },
                    "additionalProperties": False,
                },
                "additionalPodMetadata": _CLAIM_POD_METADATA,
                "env": {"type": "array"},
                "volumeClaimTemplates": {"type": "array"},
            },
        },
    ),
    "SandboxTemplate": _object(
        _EXTENSIONS,
        "SandboxTemplate",
        {
            "required": ["podTemplate"],
            "properties": _BLUEPRINT
            | {
                "networkPolicy": {
                    "type": "object",
                    "properties": {"ingress": {"type": "array"}, "egress": {"type": "array"}},
                    "additionalProperties": False,
                },
                "networkPolicyManagement": {"enum": ["Managed", "Unmanaged"]},
                "envVarsInjectionPolicy": {"enum": ["Allowed", "Overrides", "Disallowed"]},
                "volumeClaimTemplatesPolicy": {"enum": ["Allowed", "Overrides", "Disallowed"]},
            },
        },
    ),
    "SandboxWarmPool": _object(
        _EXTENSIONS,
        "SandboxWarmPool",
        {
            "required": ["sandboxTemplateRef"],
            "properties": {
                "replicas": {"type": "integer", "minimum": 0},
                "sandboxTemplateRef": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}},
                    "additionalProperties": False,
                },
                "updateStrategy": {
                    "type": "object",
                    "properties": {"type": {"enum": ["Recreate", "OnReplenish"]}},
                    "additionalProperties": False,
                },
            },
        },
    ),
}


def problem_of(found: dict[str, Any]) -> str | None:
    """Return why the API server would refuse an object; None for a valid one."""
    try:
        jsonschema.validate(found, SCHEMAS[found["kind"]])
        template = found["spec"].get("podTemplate")
        if template is not None:
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "pod", **template.get("metadata", {})},
                "spec": template["spec"],
            }
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return str(error.message)
    return None

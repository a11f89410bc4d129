"""Values that operators would give, by name. Each must render to a fleet that works."""

from typing import Any

Values = dict[str, Any]

TWO_POOLS: list[Values] = [
    {
        "name": "interactive",
        "queues": ["celery", "chat"],
        "modules": ["acme.chat"],
        "autoscaling": {"minReplicas": 3, "maxReplicas": 9},
    },
    {
        "name": "batch",
        "queues": ["batch"],
        "pool": "prefork",
        "concurrency": 4,
        "drainSeconds": 600,
        "podDisruptionBudget": {"enabled": False},
        "autoscaling": {"minReplicas": 0},
    },
]

EVERYTHING: Values = {
    "commonLabels": {"team": "agents"},
    "image": {
        "repository": "registry.internal/skills",
        "digest": "sha256:" + "a" * 64,
        "pullSecrets": ["registry"],
    },
    "redis": {
        "url": "rediss://redis.data.svc:6380/3",
        "existingSecret": {"name": "redis-acl", "usernameKey": "user", "passwordKey": "password"},
        "tls": {"caSecret": "redis-ca"},
    },
    "broker": {"existingSecret": {"name": "rabbitmq"}},
    "artifacts": {
        "url": "s3://artifacts/fleet",
        "credentialsSecret": "bucket",
        "options": {"AWS_REGION": "eu-central-1", "AWS_ENDPOINT_URL": "https://s3.internal"},
    },
    "workspaces": {"enabled": True, "size": "100Gi", "storageClass": "shared-files"},
    "sandbox": {
        "kind": "kubernetes",
        "kubernetes": {
            "enabled": True,
            "image": "registry.local/python-runtime:1",
            "runtimeClass": "gvisor",
            "warmPool": {"replicas": 3},
        },
    },
    "settings": {"namespace": "blue", "extra": {"SKILLFLEET_MAX_ARTIFACT_BYTES": "1048576"}},
    "telemetry": {
        "otlpEndpoint": "http://collector.observability:4318",
        "headersSecret": {"name": "otlp"},
    },
    "workerDefaults": {
        "modules": ["acme.skills"],
        "podDeletionCost": True,
        "shareProcessNamespace": True,
        "topologySpread": [
            {
                "topologyKey": "topology.kubernetes.io/zone",
                "maxSkew": 1,
                "whenUnsatisfiable": "ScheduleAnyway",
            }
        ],
        "preStop": {"command": ["sleep", "5"], "seconds": 5},
        "secrets": [
            {"name": "openai", "items": [{"key": "api-key", "path": "openai-key"}]},
            {"name": "more"},
        ],
        "env": [{"name": "HTTP_PROXY", "value": "http://proxy:3128"}],
        "celeryArgs": ["--max-memory-per-child=400000"],
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "agents", "operator": "Exists"}],
        "priorityClassName": "high",
        "runtimeClassName": "gvisor",
        "podAnnotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
        "podLabels": {"tier": "skills", "app.kubernetes.io/component": "never"},
        "extraVolumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
        "extraVolumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
    },
    "workers": [TWO_POOLS[0], {**TWO_POOLS[1], "podDeletionCost": False}],
    "workerServiceAccount": {"annotations": {"cloud/role": "skills"}},
    "exporter": {"replicas": 2},
    "flower": {
        "auth": {"basic": {"existingSecret": "flower-auth"}},
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "host": "flower.internal",
            "tlsSecret": "flower-tls",
        },
    },
    "networkPolicy": {
        "workerEgress": [{"ports": [{"port": 5432, "protocol": "TCP"}]}],
    },
    "monitoring": {
        "enabled": True,
        "rules": True,
        "dashboard": {"enabled": True},
        "labels": {"release": "prometheus"},
    },
}

VALUE_SETS: dict[str, Values] = {
    "defaults": {},
    "everything": EVERYTHING,
    "two pools": {"workers": TWO_POOLS},
    "trial": {"valkey": {"enabled": True}},
    "trial without add-ons": {
        "valkey": {"enabled": True, "persistence": {"enabled": False}},
        "workerDefaults": {"autoscaling": {"mode": "none"}},
        "flower": {"persistence": {"enabled": False}},
    },
    "no KEDA": {"workerDefaults": {"autoscaling": {"mode": "none"}}},
    "HPA": {"workerDefaults": {"autoscaling": {"mode": "cpu"}}},
    "Redis lists": {
        "redis": {
            "url": "rediss://redis.data.svc/2",
            "existingSecret": {"name": "redis-acl", "passwordKey": "password"},
            "tls": {"caSecret": "redis-ca"},
        },
        "settings": {"namespace": "blue"},
        "workers": [
            {**pool, "autoscaling": {"mode": "redisList", "minReplicas": 0}} for pool in TWO_POOLS
        ],
    },
    "Redis lists of the trial Valkey": {
        "valkey": {"enabled": True, "auth": {"existingSecret": "valkey-auth"}},
        "workerDefaults": {"autoscaling": {"mode": "redisList"}},
    },
    "external Redis with TLS": {
        "redis": {
            "url": "rediss://redis.data.svc:6380/0",
            "existingSecret": {"name": "redis-acl", "usernameKey": "u", "passwordKey": "p"},
            "tls": {"caSecret": "redis-ca", "caKey": "tls.crt"},
        }
    },
    "Redis users": {
        "redis": {
            "url": "rediss://redis.data.svc:6380/0",
            "username": "skillfleet-worker",
            "existingSecret": {"name": "redis-users", "passwordKey": "worker"},
            "users": {
                "exporter": {"username": "skillfleet-exporter", "passwordKey": "exporter"},
                "flower": {"username": "skillfleet-flower", "passwordKey": "flower"},
                "producer": {
                    "secret": "redis-producer",
                    "usernameKey": "user",
                    "passwordKey": "password",
                },
            },
            "tls": {"caSecret": "redis-ca"},
        },
        "workers": [
            {"name": "lists", "queues": ["celery"], "autoscaling": {"mode": "redisList"}},
            {"name": "demand", "queues": ["batch"]},
        ],
    },
    "Redis users by URL": {
        "redis": {
            "existingSecret": {"urlKey": "worker"},
            "users": {
                "exporter": {"urlKey": "exporter"},
                "flower": {"urlKey": "flower"},
                "producer": {"secret": "redis-producer"},
            },
        }
    },
    "signed runs": {
        "auth": {
            "required": True,
            "producerKeys": {"configMap": "producer-keys"},
            "workerKeys": {"secret": "worker-keys"},
            "workerSigningKey": {"secret": "worker-key", "key": "worker.private.pem"},
            "producerSigningKey": {"secret": "test-key", "key": "backend.private.pem"},
            "answerKeys": {"secret": "answer-keys"},
        }
    },
    "signed runs without calls": {
        "auth": {"required": True, "producerKeys": {"secret": "producer-keys"}}
    },
    "RabbitMQ": {"broker": {"url": "amqp://rabbitmq.data.svc:5672//"}},
    "no Flower": {"flower": {"enabled": False}},
    "no exporter": {
        "exporter": {"enabled": False},
        "keda": {"exporterUrl": "http://exporter.shared.svc:9808/"},
    },
    "Flower behind OAuth": {
        "flower": {
            "urlPrefix": "/flower",
            "readOnly": True,
            "auth": {
                "oauth": {
                    "provider": "flower.views.auth.GoogleAuth2LoginHandler",
                    "emails": ".*@acme\\.internal",
                    "redirectUri": "https://flower.internal/flower/login",
                    "existingSecret": "flower-oauth",
                }
            },
            "ingress": {"enabled": True, "host": "flower.internal"},
        }
    },
    "Flower behind a proxy": {
        "flower": {
            "auth": {"proxy": True},
            "ingress": {
                "enabled": True,
                "host": "flower.internal",
                "annotations": {"nginx.ingress.kubernetes.io/auth-url": "https://login.internal/"},
            },
        }
    },
    "platform chooses users": {
        "podSecurity": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
    },
    "open network": {"networkPolicy": {"enabled": False}},
    "no start-up check": {"redis": {"startupCheck": False}},
}

# What a careless template turns into numbers, booleans, nulls and dates.
LOOKALIKES = ["123", "1e3", "true", "null", "on", "2026-01-01"]


def odd_values(odd: str) -> Values:
    """Values with `odd` wherever operators name something."""
    return {
        "nameOverride": odd if odd.isalpha() else "",
        "fullnameOverride": "fleet",
        "commonLabels": {"team": odd},
        "image": {"pullSecrets": [odd]},
        "redis": {
            "url": "rediss://redis.data.svc:6380/0",
            "username": odd,
            "existingSecret": {"name": odd, "passwordKey": odd},
            "users": {"exporter": {"usernameKey": odd, "passwordKey": odd}},
            "tls": {"caSecret": odd, "caKey": odd},
        },
        "broker": {"existingSecret": {"name": odd, "urlKey": odd}},
        "auth": {
            "producerKeys": {"configMap": odd},
            "workerKeys": {"secret": odd},
            "workerSigningKey": {"secret": odd, "key": odd},
            "answerKeys": {"secret": odd},
        },
        "artifacts": {
            "url": f"s3://{odd}",
            "credentialsSecret": odd,
            "options": {"AWS_REGION": odd},
        },
        "workspaces": {"enabled": True, "existingClaim": odd},
        "sandbox": {
            "kind": "auto",
            "kubernetes": {
                "enabled": True,
                "image": odd,
                "runtimeClass": odd,
                "warmPool": {"name": odd},
            },
        },
        "telemetry": {
            "otlpEndpoint": "http://collector:4318",
            "headersSecret": {"name": odd, "key": odd},
        },
        "workers": [
            {
                "name": odd,
                "queues": [odd],
                "modules": ["true", "null"],
                "priorityClassName": odd,
                "runtimeClassName": odd,
                "podLabels": {"tier": odd},
                "podAnnotations": {"note": odd},
                "secrets": [{"name": odd, "items": [{"key": odd, "path": odd}]}],
                "env": [{"name": "ODD", "value": odd}],
                "podDeletionCost": True,
                "autoscaling": {"mode": "redisList", "redisList": {"address": "redis:6380"}},
            }
        ],
        "workerServiceAccount": {"name": odd, "annotations": {"role": odd}},
        "keda": {"namespace": odd},
        "flower": {
            "auth": {"basic": {"existingSecret": odd, "key": odd}},
            "ingress": {
                "enabled": True,
                "className": odd,
                "host": odd,
                "tlsSecret": odd,
                "controllerNamespace": odd,
            },
            "persistence": {"existingClaim": odd, "storageClass": odd},
        },
        "monitoring": {"enabled": True, "namespace": odd, "labels": {"release": odd}},
    }

"""The Celery app of a worker. `celery -A skillfleet_worker.app worker` serves SKILLFLEET_MODULES.

A project with its own module writes `app = create_app("my_agents")` there.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from celery import Celery
from kombu import Exchange, Queue

from skillfleet.agent import Agent
from skillfleet_engine.celery_hooks.compression import bound_decompression
from skillfleet_engine.transport import broker_settings
from skillfleet_ledger.settings import celery_url
from skillfleet_worker.adapters import unusable_secrets
from skillfleet_worker.agents import find_agents
from skillfleet_worker.bootstrap import check_settings, connect_signals, make_executor
from skillfleet_worker.builtin import fleet
from skillfleet_worker.celery_hooks import remote_control  # noqa: F401 - registers the command
from skillfleet_worker.celery_hooks.envelope import most_message_bytes
from skillfleet_worker.celery_hooks.skill_task import SkillTask
from skillfleet_worker.services.node import Node
from skillfleet_worker.settings import WorkerSettings

LOOP_POOL = "skillfleet_engine:LoopPool"
POOLS = {"loop": LOOP_POOL, "prefork": "prefork", "threads": "threads"}
LOOP_CONCURRENCY = 100


def create_app(
    *sources: str | Agent,
    settings: WorkerSettings | None = None,
    pool: str = "loop",
    concurrency: int | None = None,
) -> Celery:
    """Return a Celery app that serves agents: `sources` are agents, or modules to find them in.

    `pool` is loop, prefork or threads. Raises DeclarationError when two skills have one name
    or a module has no agent, SettingsError for a bad setting.
    """
    chosen = settings or WorkerSettings.load()
    adapters = check_settings(chosen, pool)
    bound_decompression(most_message_bytes(chosen))
    names = [name.strip() for name in chosen.modules.split(",") if name.strip()]
    agents = find_agents([fleet, *(sources or names)])
    node = Node(chosen, agents, partial(make_executor, pool))
    app = Celery("skillfleet", set_as_current=True)
    queues = [Queue(name, Exchange(name), routing_key=name) for name in node.queues]
    app.config_from_object(_configuration(chosen, pool, concurrency) | {"task_queues": queues})
    node.disabled = unusable_secrets(agents, adapters.secrets)
    _register(app, agents, node)
    connect_signals(app, node)
    return app


def _register(app: Celery, agents: Sequence[Agent], node: Node) -> None:
    for agent in agents:
        for skill in agent.skills.values():
            if skill.spec.task_name in node.disabled:
                continue
            members = {
                "name": skill.spec.task_name,
                "skill": skill,
                "agent": agent,
                "node": node,
                "__doc__": skill.spec.description,
                "__module__": __name__,
            }
            app.register_task(type("Skill", (SkillTask,), members)())


def _configuration(settings: WorkerSettings, pool: str, concurrency: int | None) -> dict[str, Any]:
    """Celery's settings, against known problems of Celery on Redis (docs/internals.md)."""
    timeout = settings.redis_timeout_seconds
    backend = "skillfleet_worker.celery_hooks.result_backend:LedgerBackend"
    prefix = settings.keyspace.broker_prefix
    looped = pool == "loop"
    redis_broker = settings.celery_broker_url.startswith(("redis", "sentinel"))
    return {
        **_broker(settings),
        "result_backend": f"{backend}+{celery_url(settings.ledger_url)}",
        "result_backend_transport_options": {"global_keyprefix": prefix} if prefix else {},
        "broker_transport_options": _transport_options(settings) if redis_broker else {},
        "broker_connection_timeout": timeout,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "redis_socket_timeout": timeout,
        "redis_socket_connect_timeout": timeout,
        "redis_socket_keepalive": True,
        "redis_max_connections": None,
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "result_expires": int(settings.retention_seconds),
        "task_default_queue": settings.default_queue,
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
        "task_acks_on_failure_or_timeout": True,
        "worker_pool": POOLS[pool],
        "worker_concurrency": concurrency or (LOOP_CONCURRENCY if looped else None),
        "worker_consumer": "skillfleet_worker.celery_hooks.consumer:FleetConsumer",
        "worker_prefetch_multiplier": 0 if looped and redis_broker else 1,
        "worker_disable_prefetch": redis_broker,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_remote_control": True,
        "worker_redirect_stdouts": False,
        "engine_blocked_after": settings.blocked_seconds,
        "engine_cancel_grace": settings.abandon_seconds,
    }


def _broker(settings: WorkerSettings) -> dict[str, Any]:
    """Return the broker's URL; on Redis with the engine's transport unless that is disabled."""
    if settings.redis_transport == "kombu":
        return {"broker_url": settings.celery_broker_url}
    return broker_settings(settings.celery_broker_url)


def _transport_options(settings: WorkerSettings) -> dict[str, Any]:
    timeout = settings.redis_timeout_seconds
    return {
        "global_keyprefix": settings.keyspace.broker_prefix,
        "max_message_bytes": most_message_bytes(settings),
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "visibility_timeout": 3600,
    }


def __getattr__(name: str) -> Any:
    """Build `app` at its first use, so that nothing is read at import time."""
    if name == "app":
        globals()["app"] = create_app()
        return globals()["app"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

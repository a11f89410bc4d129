"""The one place that names concrete adapters, and the hooks that tie a node to Celery."""

import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery, signals

from skillfleet.agent import Agent
from skillfleet.errors import SettingsError
from skillfleet.ports.a2a import A2AClient
from skillfleet.ports.secrets import SHORTEST, Secrets
from skillfleet_adapters.a2a.ca_bundles import Authorities
from skillfleet_adapters.a2a.credentials import credentials_from
from skillfleet_adapters.a2a.host_allowlist import Hosts
from skillfleet_adapters.a2a.routed import RoutedA2AClient
from skillfleet_adapters.discovery.ledger import LedgerDiscovery
from skillfleet_adapters.kubernetes.deletion_cost import DeletionCostKeeper, Pod
from skillfleet_adapters.secrets.chain import ChainedSecrets
from skillfleet_adapters.secrets.entry_points import load_source
from skillfleet_adapters.secrets.environment import EnvironmentSecrets
from skillfleet_adapters.secrets.files import FileSecrets
from skillfleet_auth.signing import Signing
from skillfleet_engine.celery_hooks.pool import LoopPool
from skillfleet_engine.loop import bridge
from skillfleet_engine.loop.process_exit import end_children
from skillfleet_engine.transport import message_undecodable
from skillfleet_ledger.runs.queries import Queries
from skillfleet_producer import AsyncFleet
from skillfleet_worker.attempts.admission import Admission, OpenAdmission
from skillfleet_worker.attempts.children import FleetA2AClient
from skillfleet_worker.attempts.context import Capabilities
from skillfleet_worker.attempts.executor import Executor
from skillfleet_worker.attempts.process import WorkerProcess
from skillfleet_worker.celery_hooks.consumer import keep_refused
from skillfleet_worker.services.drain import DrainLine
from skillfleet_worker.services.gc_tuning import relieve_collector
from skillfleet_worker.services.node import Node
from skillfleet_worker.services.telemetry import Telemetry
from skillfleet_worker.settings import WorkerSettings

if TYPE_CHECKING:
    from skillfleet_auth.verification import TokenVerifier

logger = logging.getLogger(__name__)


def make_executor(node: Node) -> Executor:
    """An executor with the adapters of the fleet; on the process's home loop."""
    settings = node.settings
    process = WorkerProcess(settings)
    if settings.pod_deletion_cost:
        pod = Pod(
            settings.kubernetes_url,
            settings.kubernetes_account,
            settings.pod_namespace,
            settings.pod_name,
        )
        process.background_services.append(DeletionCostKeeper(pod, process.oldest_started).run)
    secrets = secrets_from(settings)
    capabilities = Capabilities(
        ledger=process.ledger,
        secrets=secrets,
        a2a=RoutedA2AClient(
            FleetA2AClient(
                AsyncFleet(ledger=process.ledger), patience=settings.events_patience_seconds
            ),
            elsewhere_from(settings, secrets),
        ),
        discovery=LedgerDiscovery(process.ledger),
        patience_seconds=settings.events_patience_seconds,
    )
    admission = admission_from(settings, process.ledger.queries)
    return Executor(process, capabilities, admission, node.served)


def admission_from(settings: WorkerSettings, queries: Queries) -> Admission:
    """How callers are identified; raises SettingsError for keys that cannot be used."""
    if settings.auth == "off":
        return OpenAdmission()
    # Only here: a worker without keys does without 9 MiB of cryptography.
    from skillfleet_auth.admission import TokenAdmission  # noqa: PLC0415

    return TokenAdmission(_verifier(settings), queries, settings.max_tree_depth)


def _verifier(settings: WorkerSettings) -> "TokenVerifier":
    from skillfleet_auth.verification import verifier_from  # noqa: PLC0415 - as above

    return verifier_from(settings)


def elsewhere_from(settings: WorkerSettings, secrets: Secrets) -> A2AClient | None:
    """What calls agents over HTTP; None where no host is listed. Raises SettingsError."""
    if not settings.a2a_hosts:
        return None
    try:
        from skillfleet_adapters.a2a.http import HttpA2AClient  # noqa: PLC0415 - an extra
        from skillfleet_adapters.a2a.transport import GuardedTransport  # noqa: PLC0415
    except ImportError:
        raise SettingsError(
            "SKILLFLEET_A2A_HOSTS needs A2A's client: pip install 'skillfleet[a2a]'"
        ) from None
    credentials = credentials_from(settings.a2a_credentials, secrets)
    hosts = Hosts.parse(settings.a2a_hosts)
    authorities = Authorities.parse(settings.a2a_ca_files)
    transport = GuardedTransport(hosts, settings.a2a_max_response_bytes, credentials, authorities)
    return HttpA2AClient(transport, settings.a2a_timeout_seconds)


def check_settings(settings: WorkerSettings) -> None:
    """Raise SettingsError for keys that the worker's processes could not use."""
    Signing(settings)
    elsewhere_from(settings, secrets_from(settings))
    if settings.auth == "required":
        _verifier(settings)


def secrets_from(settings: WorkerSettings) -> Secrets:
    """The sources of secrets in the order of the settings; raises SettingsError."""
    sources: dict[str, Secrets] = {}
    for name in settings.secrets_source_names:
        match name:
            case "files":
                if settings.secrets_dir is not None:
                    sources[name] = FileSecrets(settings.secrets_dir)
            case "environment":
                environment = os.environ  # noqa: TID251 - a source of secrets, not of settings
                sources[name] = EnvironmentSecrets(environment, settings.secrets_env_prefix)
            case _:
                sources[name] = load_source(name)
    return ChainedSecrets(sources)


def unusable_secrets(agents: Sequence[Agent], secrets: Secrets) -> dict[str, tuple[str, ...]]:
    """What is wrong with the secrets of skills (task names), where something is."""
    wrong = {
        skill.spec.task_name: tuple(
            problem
            for name in skill.spec.secrets
            if (problem := _problem_of(name, secrets.get(name))) is not None
        )
        for agent in agents
        for skill in agent.skills.values()
    }
    return {task: problems for task, problems in wrong.items() if problems}


def _problem_of(name: str, value: str | None) -> str | None:
    if value is None:
        return f"no source has its secret {name!r}"
    if len(value) < SHORTEST:
        return f"its secret {name!r} has fewer than {SHORTEST} characters and could not be hidden"
    return None


def connect_signals(app: Celery, node: Node) -> None:
    """Start, drain and stop the node with Celery's worker, in every pool."""
    line = DrainLine(node)
    node.release_runs = line.release
    node.end_process = line.end

    def starts(**_: Any) -> None:
        line.open()

    def process_starts(**_: Any) -> None:
        line.watch()
        node.start()

    def ready(sender: Any = None, **_: Any) -> None:
        node.consumer = sender
        _have_told_of_signals(sender, line)
        _say_auth(node.settings)
        _say_disabled(node)
        if not _has_children(sender):
            node.start()
            relieve_collector()

    def shuts_down(how: str = "Warm", **_: Any) -> None:
        line.drain(fast=how == "Cold")

    def process_stops(**_: Any) -> None:
        bridge.run(node.stop())
        if node.in_child:
            end_children()

    def stopped(sender: Any = None, **_: Any) -> None:
        if not node.in_child:
            bridge.run(node.stop())
            line.stopped(getattr(sender, "exitcode", None))

    unreadable = partial(_keep_unreadable, node)
    message_undecodable.connect(unreadable, weak=False)
    signals.worker_init.connect(starts, weak=False)
    signals.worker_process_init.connect(process_starts, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(shuts_down, weak=False)
    signals.worker_process_shutdown.connect(process_stops, weak=False)
    signals.worker_shutdown.connect(stopped, weak=False)
    Telemetry(node).connect()
    # Last, when all that the handlers above load is there, and before prefork forks.
    signals.worker_init.connect(relieve_collector, weak=False)
    node.bind(app)


def _have_told_of_signals(consumer: Any, line: DrainLine) -> None:
    if isinstance(getattr(consumer, "pool", None), LoopPool):
        consumer.pool.on_signal = line.noted


def _keep_unreadable(node: Node, queue: str, body: bytes, reason: str, **_: Any) -> None:
    keep_refused(node.settings, body, f"in queue {queue}: {reason}")


def _say_auth(settings: WorkerSettings) -> None:
    if settings.auth == "off":
        logger.warning(
            "SKILLFLEET_AUTH is off: whoever reaches this Redis can run any skill in anybody's"
            " name. Set SKILLFLEET_AUTH=required where that is not meant (docs/security.md)."
        )
    elif settings.auth_signing_key_file is None:
        logger.warning(
            "SKILLFLEET_AUTH_SIGNING_KEY_FILE is not set: skills of this worker cannot call others"
        )


def _say_disabled(node: Node) -> None:
    for task, problems in node.disabled.items():
        sources = node.settings.secrets_sources
        told = " and ".join(problems)
        logger.error("%s is not served: %s (sources of this worker: %s)", task, told, sources)


def _has_children(consumer: Any) -> bool:
    """True when runs are executed in child processes (prefork), not in this one."""
    return type(consumer.pool).__module__ == "celery.concurrency.prefork"

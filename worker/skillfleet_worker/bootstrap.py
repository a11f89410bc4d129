"""The one place that names concrete adapters, and the hooks that tie a node to Celery."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from celery import Celery, signals

from skillfleet.contracts import AgentCard
from skillfleet.ports.secrets import Secrets
from skillfleet_engine import bridge
from skillfleet_producer import AsyncFleet
from skillfleet_worker.adapters.a2a.fleet import FleetA2AClient
from skillfleet_worker.adapters.discovery.ledger import LedgerDiscovery
from skillfleet_worker.adapters.secrets.chain import ChainedSecrets
from skillfleet_worker.adapters.secrets.environment import EnvironmentSecrets
from skillfleet_worker.adapters.secrets.files import FileSecrets
from skillfleet_worker.runtime.context import Capabilities
from skillfleet_worker.runtime.drain import DrainLine
from skillfleet_worker.runtime.executor import Executor
from skillfleet_worker.runtime.node import Node
from skillfleet_worker.runtime.process import WorkerProcess
from skillfleet_worker.settings import WorkerSettings
from skillfleet_worker.telemetry.hooks import Telemetry

logger = logging.getLogger(__name__)


def make_executor(settings: WorkerSettings, cards: Sequence[AgentCard]) -> Executor:
    """An executor with the adapters of the fleet; on the process's home loop."""
    process = WorkerProcess(settings, cards)
    capabilities = Capabilities(
        ledger=process.ledger,
        secrets=secrets_from(settings),
        a2a=FleetA2AClient(AsyncFleet(ledger=process.ledger)),
        discovery=LedgerDiscovery(process.ledger),
    )
    return Executor(process, capabilities)


def secrets_from(settings: WorkerSettings) -> Secrets:
    """The sources of secrets in order: files, then the environment."""
    sources: list[Secrets] = []
    if settings.secrets_dir is not None:
        sources.append(FileSecrets(settings.secrets_dir))
    environment = os.environ  # noqa: TID251 - a source of secrets, not of settings
    sources.append(EnvironmentSecrets(environment, settings.secrets_env_prefix))
    return ChainedSecrets(sources)


def connect_signals(app: Celery, node: Node) -> None:
    """Start, drain and stop the node with Celery's worker, in every pool."""
    line = DrainLine(node)
    node.release_runs = line.release

    def starts(**_: Any) -> None:
        line.open()

    def process_starts(**_: Any) -> None:
        line.watch()
        node.start()

    def ready(sender: Any = None, **_: Any) -> None:
        node.consumer = sender
        if not _has_children(sender):
            node.start()

    def shuts_down(how: str = "Warm", **_: Any) -> None:
        line.drain(fast=how == "Cold")

    def process_stops(**_: Any) -> None:
        bridge.run(node.stop())

    def stopped(**_: Any) -> None:
        if not node.in_child:
            bridge.run(node.stop())

    signals.worker_init.connect(starts, weak=False)
    signals.worker_process_init.connect(process_starts, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(shuts_down, weak=False)
    signals.worker_process_shutdown.connect(process_stops, weak=False)
    signals.worker_shutdown.connect(stopped, weak=False)
    Telemetry(node).connect()
    node.bind(app)


def _has_children(consumer: Any) -> bool:
    """True when runs are executed in child processes (prefork), not in this one."""
    return type(consumer.pool).__module__ == "celery.concurrency.prefork"

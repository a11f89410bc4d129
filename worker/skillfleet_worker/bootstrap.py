"""The bootstrap of a worker: builds each process from its adapters and ties the node to Celery."""

import logging
from functools import partial
from typing import Any

from celery import Celery, signals

from skillfleet.errors import SettingsError
from skillfleet.ports.grants import GrantAuthority
from skillfleet_auth.sealing import AnswerKeys
from skillfleet_auth.signing import Signing
from skillfleet_engine.celery_hooks.pool import LoopPool
from skillfleet_engine.loop import bridge
from skillfleet_engine.loop.process_exit import end_children
from skillfleet_engine.transport import message_undecodable
from skillfleet_ledger import Ledger
from skillfleet_worker.adapters import Adapters, grants_signer, load_adapters
from skillfleet_worker.attempts.context import Capabilities
from skillfleet_worker.attempts.executor import Executor
from skillfleet_worker.attempts.process import WorkerProcess
from skillfleet_worker.attempts.waiting import WaitingRoom
from skillfleet_worker.celery_hooks.consumer import dead_letter_undecodable
from skillfleet_worker.celery_hooks.monitors import EndEvents, show_waiting
from skillfleet_worker.services.drain import ShutdownPipes
from skillfleet_worker.services.gc_tuning import tune_gc
from skillfleet_worker.services.node import Node
from skillfleet_worker.services.object_sweeper import ObjectSweeper
from skillfleet_worker.services.resource_reaper import ResourceReaper
from skillfleet_worker.services.telemetry import Telemetry
from skillfleet_worker.settings import WorkerSettings

logger = logging.getLogger(__name__)


def make_executor(pool: str, node: Node) -> Executor:
    """Return an executor with the adapters that the settings select; on the process's home loop."""
    settings = node.settings
    process = WorkerProcess(settings)
    process.show_end = EndEvents(node).show
    adapters = load_adapters(settings, pool, {Ledger: process.ledger})
    reaper = ResourceReaper(process.ledger, adapters.reaping, settings.lease_seconds)
    process.background_services += [adapters.keep_open, reaper.run]
    if (objects := process.ledger.objects) is not None:
        sweeper = ObjectSweeper(process.ledger, objects, settings.lease_seconds)
        process.background_services.append(sweeper.run)
    if adapters.orchestrator is not None:
        process.background_services.append(
            partial(adapters.orchestrator.report, process.oldest_started)
        )
    if adapters.admission is None:
        raise SettingsError("SKILLFLEET_ADMISSION: its adapter is turned off by its settings")
    capabilities = Capabilities(
        ledger=process.ledger,
        secrets=adapters.secrets,
        settings=settings,
        admission=adapters.admission,
        fleet=adapters.fleet,
        a2a=adapters.a2a,
        discovery=adapters.discovery,
        workspace=adapters.workspace,
        sandbox=adapters.sandbox,
        checkpoint=adapters.checkpoint,
        answer_keys=None if settings.answer_keys is None else AnswerKeys(settings.answer_keys),
        grants=GrantAuthority(grants_signer(settings), process.ledger.grants),
        room=WaitingRoom(settings.max_waiting),
        # A child of prefork has no connection for events: Celery's main process reports for it.
        show_waiting=None if pool == "prefork" else show_waiting,
    )
    return Executor(process, capabilities, node.served)


def check_settings(settings: WorkerSettings, pool: str) -> Adapters:
    """Raise SettingsError for settings that the worker's processes could not use."""
    Signing(settings)
    grants_signer(settings)
    if settings.answer_keys is not None:
        AnswerKeys(settings.answer_keys)
    return load_adapters(settings, pool)


def connect_signals(app: Celery, node: Node) -> None:
    """Start, drain and stop the node with Celery's worker, in every pool."""
    line = ShutdownPipes(node)
    node.release_runs = line.release
    node.end_process = line.end

    def starts(sender: Any = None, **_: Any) -> None:
        node.hostname = getattr(sender, "hostname", None)
        line.open()

    def process_starts(**_: Any) -> None:
        line.watch()
        node.start()

    def ready(sender: Any = None, **_: Any) -> None:
        node.consumer = sender
        _forward_signals(sender, line)
        _log_auth(node.settings)
        _log_disabled(node)
        if not _has_children(sender):
            node.start()
            tune_gc()

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
    # Last, after the handlers above have loaded what they need, and before prefork forks.
    signals.worker_init.connect(tune_gc, weak=False)
    node.bind(app)


def _forward_signals(consumer: Any, line: ShutdownPipes) -> None:
    if isinstance(getattr(consumer, "pool", None), LoopPool):
        consumer.pool.on_signal = line.noted


def _keep_unreadable(node: Node, queue: str, body: bytes, reason: str, **_: Any) -> None:
    dead_letter_undecodable(node.settings, body, f"in queue {queue}: {reason}")


def _log_auth(settings: WorkerSettings) -> None:
    if settings.auth == "off":
        logger.warning(
            "SKILLFLEET_AUTH is off: anyone who reaches this Redis can run any skill as any"
            " caller. Set SKILLFLEET_AUTH=required where that is not intended (docs/security.md)."
        )
    elif settings.auth_signing_key_file is None:
        logger.warning(
            "SKILLFLEET_AUTH_SIGNING_KEY_FILE is not set: skills of this worker cannot call others"
        )


def _log_disabled(node: Node) -> None:
    for task, problems in node.disabled.items():
        sources = node.settings.secrets_sources
        text = " and ".join(problems)
        logger.error("%s is not served: %s (sources of this worker: %s)", task, text, sources)


def _has_children(consumer: Any) -> bool:
    """Return True when runs are executed in child processes (prefork), not in this one."""
    return type(consumer.pool).__module__ == "celery.concurrency.prefork"

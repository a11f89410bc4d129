"""Telemetry at Celery's signals, in every pool.

| when | what |
|---|---|
| process start | keep stdout and stderr JSON-only; log what Python would print |
| logging set-up | structlog, for Celery's lines too; a thread writes the lines |
| start of the main process | probe server and metrics |
| start of an executing process, after its fork | tracing; a child relays its measurements |
| start and end of a task | the run of the log lines in between |
| end of an executing process | export of the last spans |
"""

import logging
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from celery import current_app, signals

from skillfleet_engine.loop.threads import threads_left
from skillfleet_telemetry import logs
from skillfleet_telemetry.export import rate_limit_sdk_logs
from skillfleet_telemetry.http import Answer, HttpServer, Query
from skillfleet_telemetry.metrics import (
    IN_FLIGHT,
    LOOP_LAG,
    THREADS_LEFT,
    Gauges,
    send_to,
)
from skillfleet_telemetry.relay import Relay
from skillfleet_telemetry.settings import TelemetrySettings
from skillfleet_telemetry.tracing import resource, tracing
from skillfleet_telemetry.uncaught import log_uncaught
from skillfleet_worker.services import health
from skillfleet_worker.services.health import Health

if TYPE_CHECKING:
    from skillfleet_telemetry.meters import Meters

# ruff: noqa: PLC0415 - exporters and instrumentation are 8 MiB, needed only where they are used

_FOR_TRACES = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "skillfleet_telemetry.celery_tasks",
)
_LAST_SECONDS = 5.0
_TICK_SECONDS = 0.25


class Worker(health.Worker, Protocol):
    """A worker, as far as telemetry needs it."""

    @property
    def in_child(self) -> bool:
        """True in a child process of the worker."""


class Telemetry:
    """The telemetry of one worker; its methods are receivers of Celery's signals."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._settings = TelemetrySettings.load()
        self._health = Health(worker)
        self._relay: Relay | None = None
        self._meters: Meters | None = None
        self._server: HttpServer | None = None
        self._threads_left: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    def connect(self) -> None:
        """Register for Celery's signals; call it after the worker's own hooks."""
        signals.celeryd_init.connect(self._program_starts, weak=False)
        signals.setup_logging.connect(self._set_up_logging, weak=False)
        signals.worker_init.connect(self._main_starts, weak=False)
        signals.worker_process_init.connect(self._process_starts, weak=False)
        signals.worker_ready.connect(self._ready, weak=False)
        signals.task_prerun.connect(_task_begins, weak=False)
        signals.task_postrun.connect(_task_ends, weak=False)
        signals.worker_shutting_down.connect(self._shuts_down, weak=False)
        signals.worker_process_shutdown.connect(self._process_ends, weak=False)
        signals.worker_shutdown.connect(self._main_ends, weak=False)
        threads_left.connect(self._count_threads, weak=False)

    def _program_starts(self, instance: Any, options: Mapping[str, Any], **_: Any) -> None:
        """Keep what Celery and Python print without logging out of a stream of JSON lines."""
        log_uncaught()
        settings, logfile = self._worker.settings, options.get("logfile")
        if not logs.writes_json(settings.log_format, logfile):
            return
        # Celery warns about running as root before it sets up logging.
        logs.configure(settings.log_level, settings.log_format, logfile, background=True)
        logging.captureWarnings(capture=True)
        instance.quiet = True
        # At a signal Celery writes a line to this file directly, if there is one.
        sys.__stdout__ = None  # type: ignore[misc]

    def _set_up_logging(self, loglevel: Any = None, logfile: Any = None, **_: Any) -> None:
        settings = self._worker.settings
        level = loglevel or settings.log_level
        logs.configure(level, settings.log_format, logfile, background=not self._worker.in_child)
        logs.SkillLines(_is_skill).install()

    def _main_starts(self, **_: Any) -> None:
        settings = self._worker.settings
        if self._settings.exports_traces:
            # Before the fork, so that prefork's children share them.
            for name in _FOR_TRACES:
                import_module(name)
        if settings.metrics or self._settings.exports_metrics:
            self._relay = Relay()
        if settings.probe_port is None:
            return
        routes = self._health.routes()
        if settings.metrics:
            routes["/metrics"] = self._expose
        try:
            self._server = HttpServer(settings.probe_host, settings.probe_port, routes)
        except OSError as error:
            where = f"{settings.probe_host}:{settings.probe_port}"
            raise SystemExit(f"SKILLFLEET_PROBE_PORT: cannot listen on {where}: {error}") from error
        self._server.start()

    def _process_starts(self, **_: Any) -> None:
        """Set up an executing process; with the threads pool, Celery sends no such signal."""
        if self._worker.in_child:
            if self._server is not None:
                self._server.forget()
            send_to(self._relay.send if self._relay is not None else None)
        else:
            self._start_meters()
        self._start_tracing()

    def _ready(self, sender: Any = None, **_: Any) -> None:
        self._start_meters()
        self._health.watch_consumer(sender)
        if type(sender.pool).__module__ != "celery.concurrency.prefork":
            self._start_tracing()

    def _start_tracing(self) -> None:
        tracing.start(self._settings, self._worker.settings.namespace)
        if tracing.tracer is not None:
            from skillfleet_telemetry.celery_tasks import instrument_plain_tasks

            instrument_plain_tasks()

    def _start_meters(self) -> None:
        if self._relay is None or self._meters is not None:
            return
        from skillfleet_telemetry.meters import Meters

        gauges: Gauges = {
            IN_FLIGHT: self._in_flight,
            LOOP_LAG: self._loop_lag,
            THREADS_LEFT: lambda: sum(self._threads_left.values()),
        }
        self._meters = Meters(
            resource(self._settings, self._worker.settings.namespace),
            gauges,
            prometheus=self._worker.settings.metrics,
            otlp=self._settings.exports_metrics,
        )
        rate_limit_sdk_logs()
        self._relay.listen(self._meters.add)
        send_to(self._meters.add)

    def _shuts_down(self, **_: Any) -> None:
        self._health.drain()

    def _process_ends(self, **_: Any) -> None:
        tracing.stop(_LAST_SECONDS)

    def _main_ends(self, **_: Any) -> None:
        if self._worker.in_child:
            return
        tracing.stop(_LAST_SECONDS)
        if self._meters is not None:
            self._meters.stop(_LAST_SECONDS)
        if self._server is not None:
            self._server.close()
        self._health.close()

    def _expose(self, _: Query) -> Answer:
        text = self._meters.exposition() if self._meters is not None else b""
        return Answer.metrics(text)

    def _count_threads(self, sender: Any, count: int, **_: Any) -> None:
        """Note a count, in any thread; a prefork child counts its own."""
        self._threads_left[sender] = count

    def _in_flight(self) -> float:
        process = self._worker.process
        if process is not None:
            return len(process.attempts)
        return self._relay.in_flight() if self._relay is not None else 0

    def _loop_lag(self) -> float | None:
        watchdog = getattr(getattr(self._worker.consumer, "pool", None), "watchdog", None)
        if watchdog is not None:
            lag: float = watchdog.reset_max()
            return lag
        process = self._worker.process
        if process is None:
            return None
        return max(time.monotonic() - process.last_turn - _TICK_SECONDS, 0)


def _is_skill(name: str) -> bool:
    return hasattr(current_app.tasks.get(name), "skill")


def _task_begins(task_id: str = "", task: Any = None, **_: Any) -> None:
    logs.begin_run(task_id, task.name)


def _task_ends(**_: Any) -> None:
    logs.end_run()

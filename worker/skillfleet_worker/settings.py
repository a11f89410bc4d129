"""Settings of a worker, in addition to those that all processes of a fleet share."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from skillfleet.contracts import MOST_SECONDS
from skillfleet_ledger import Settings
from skillfleet_ledger.settings import MEBIBYTE


class WorkerSettings(Settings):
    """Execution of attempts, read by workers."""

    modules: str = ""
    """Modules of the agents to serve, separated by commas."""
    lease_seconds: float = Field(15.0, ge=1)
    """How long a worker may be silent before its runs start on another worker."""
    drain_seconds: float = Field(30.0, ge=0)
    """How long runs may continue after SIGTERM before they are returned to the queue."""
    cancel_grace_seconds: float = Field(0.5, ge=0)
    """How long a cancelled handler may continue before its task is cancelled."""
    abandon_seconds: float = Field(5.0, gt=0)
    """How long a cancelled task may ignore its cancellation before it is abandoned."""
    blocked_seconds: float = Field(10.0, gt=0)
    """How long a handler may block the event loop before the worker reports it."""
    flush_seconds: float = Field(0.002, ge=0, le=1)
    """How long events of a handler that never awaits may be delayed."""
    events_patience_seconds: float = Field(60.0, gt=0)
    """How long writing events may fail before the attempt fails."""
    park_seconds: float = Field(30.0, ge=0)
    """How long a durable run waits in the memory of its worker before it is parked."""
    max_waiting: int = Field(500, ge=0)
    """Most runs that wait in the memory of one process; durable ones beyond it park at once."""
    max_wait_seconds: float = Field(2_592_000.0, ge=1, le=MOST_SECONDS)
    """How long a run waits for an answer or a message, unless its skill gives a timeout."""
    max_journal_bytes: int = Field(64 * MEBIBYTE, ge=1024)
    """Most bytes of the recorded results of a run."""
    answer_keys: Path | None = None
    """Private X25519 keys that decrypt secret answers: a folder of `*.private.pem` files, or one
    file. Questions are asked with the last one by name. Empty: no secret can be asked for."""
    reap_seconds: float = Field(1.0, gt=0)
    """Interval between two rounds of the reaper."""
    stranded_seconds: float = Field(10.0, gt=0)
    """How long a run must be queued before its message may be considered lost."""
    schedule_grace_seconds: float = Field(300.0, ge=1, le=MOST_SECONDS)
    """How late a run of a schedule may be enqueued without counting as missed."""
    secrets_sources: str = "files,environment"
    """Sources of secrets, in order of precedence; other names are entry points of the group
    `skillfleet.secrets`."""
    discovery: str = "ledger"
    """Adapter that finds agents: `ledger`, or an entry point of the group
    `skillfleet.discovery`. Empty: none."""
    sandbox: str = ""
    """Adapter that executes code in isolation: `kubernetes`, `microsandbox`, `bubblewrap`,
    `landlock`, `auto` (the strongest of them that works here), or an entry point of the group
    `skillfleet.sandbox`. Empty: none."""
    checkpoint: str = ""
    """Adapter for checkpoints of folders: `archive`, `ws_ckpt`, or an entry point of the group
    `skillfleet.checkpoint`. Empty: none for runs; the command line then uses `archive`."""
    a2a: str = "http"
    """Adapter for calls to remote agents: `http`, or an entry point of the group
    `skillfleet.a2a`. Empty: none."""
    admission: str = ""
    """Adapter that decides who may start a run: `open`, `token`, or an entry point of the group
    `skillfleet.admission`. Empty: as `SKILLFLEET_AUTH` says."""
    orchestrator: str = "kubernetes"
    """Adapter that reports the worker's load: `kubernetes`, or an entry point of the group
    `skillfleet.orchestrator`. Empty: none."""
    probe_port: int | None = Field(None, ge=0, le=65535)
    """Port of `/livez`, `/readyz` and `/startupz`. Empty: none."""
    probe_host: str = "127.0.0.1"
    """Address on which that port listens."""
    metrics: bool = False
    """Serve Prometheus metrics at `/metrics` of the probe port."""
    telemetry_tags: str = ""
    """Keys of the tags that spans, log lines and metrics of runs carry, separated by commas. In
    metrics, at most a hundred values of each."""
    redis_transport: Literal["skillfleet", "kombu"] = "skillfleet"
    """Transport that receives messages from Redis: the engine's, or Celery's own (kombu)."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """Format of log lines; `auto`: `console` on a terminal, else `json`."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.metrics and self.probe_port is None:
            raise ValueError("SKILLFLEET_METRICS needs SKILLFLEET_PROBE_PORT to serve them on")
        if self.stranded_seconds < self.reap_seconds:
            raise ValueError(
                "SKILLFLEET_STRANDED_SECONDS must not be below SKILLFLEET_REAP_SECONDS"
            )
        return self

    @property
    def tag_keys(self) -> tuple[str, ...]:
        """The keys of the tags that telemetry carries."""
        return tuple(key for key in self.telemetry_tags.replace(" ", "").split(",") if key)

    @property
    def lease_ms(self) -> int:
        """The lease in milliseconds."""
        return int(self.lease_seconds * 1000)

    @property
    def heartbeat_seconds(self) -> float:
        """Leases are renewed three times before they would run out."""
        return self.lease_seconds / 3

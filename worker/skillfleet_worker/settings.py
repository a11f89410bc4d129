"""The settings of a worker, beside those that every process of a fleet shares."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from skillfleet_ledger import Settings


class WorkerSettings(Settings):
    """How a worker runs attempts; from `SKILLFLEET_*` variables. Times in seconds."""

    modules: str = ""
    """Modules with agents to serve, separated by commas, for a plain `celery worker`."""
    lease_seconds: float = Field(15.0, ge=1)
    """How long a worker may be silent before its runs start elsewhere."""
    drain_seconds: float = Field(30.0, ge=0)
    """How long runs may go on after SIGTERM before they are released to the queue."""
    cancel_grace_seconds: float = Field(0.5, ge=0)
    """How long a cancelled handler may go on by itself before its task is cancelled."""
    abandon_seconds: float = Field(5.0, gt=0)
    """How long a cancelled task may resist before it is left behind."""
    blocked_seconds: float = Field(10.0, gt=0)
    """How long a handler may block the event loop before that is reported."""
    flush_seconds: float = Field(0.002, ge=0, le=1)
    """How long a handler that never waits may keep its own events back."""
    events_patience_seconds: float = Field(60.0, gt=0)
    """How long events may be unwritable before the attempt fails."""
    reap_seconds: float = Field(1.0, gt=0)
    """The time between two rounds of the reaper."""
    stranded_seconds: float = Field(10.0, gt=0)
    """How long a queued run waits before its message may count as gone."""
    secrets_dir: Path | None = None
    """A folder of secrets, one file each, as Kubernetes mounts them."""
    secrets_env_prefix: str = "SKILLFLEET_SECRET_"
    secrets_sources: str = "files,environment"
    """Where secrets come from, in order; other names are entry points `skillfleet.secrets`."""
    a2a_hosts: str = ""
    """Hosts that skills may call over HTTP: names, *.names, addresses, networks; by commas."""
    a2a_credentials: str = ""
    """Secrets to send as bearer tokens, by commas: `agents.example.com=partner-token`."""
    a2a_ca_files: str = ""
    """Certificate authorities of one's own, by commas: `agents.corp=/etc/ca.pem`."""
    a2a_timeout_seconds: float = Field(300.0, gt=0)
    """How long a call over HTTP may take."""
    a2a_max_response_bytes: int = Field(16 * 1024 * 1024, ge=1024)
    auth_keys: Path | None = None
    """Public keys of producers: a folder of .pem and .jwk files, or a JWKS file."""
    auth_worker_keys: Path | None = None
    """Public keys of workers, which may only sign for runs that runs of theirs call."""
    probe_port: int | None = Field(None, ge=0, le=65535)
    """Port of /livez, /readyz and /startupz; none without it."""
    probe_host: str = "127.0.0.1"
    metrics: bool = False
    """Serve Prometheus metrics at /metrics of the probe port."""
    redis_transport: Literal["skillfleet", "kombu"] = "skillfleet"
    """How messages are taken from Redis: the engine's transport, or Celery's own."""
    pod_deletion_cost: bool = False
    """Tell Kubernetes by an annotation on this pod how busy it is; not with prefork."""
    pod_name: str = ""
    pod_namespace: str = ""
    kubernetes_url: str = "https://kubernetes.default.svc"
    kubernetes_account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """The folder of the service account's token and ca.crt."""
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.metrics and self.probe_port is None:
            raise ValueError("SKILLFLEET_METRICS needs SKILLFLEET_PROBE_PORT to serve them on")
        if self.pod_deletion_cost and not (self.pod_name and self.pod_namespace):
            raise ValueError(
                "SKILLFLEET_POD_DELETION_COST needs SKILLFLEET_POD_NAME"
                " and SKILLFLEET_POD_NAMESPACE"
            )
        if self.stranded_seconds < self.reap_seconds:
            raise ValueError(
                "SKILLFLEET_STRANDED_SECONDS must not be below SKILLFLEET_REAP_SECONDS"
            )
        return self

    @property
    def secrets_source_names(self) -> tuple[str, ...]:
        """The names of the sources of secrets, in order."""
        names = (name.strip() for name in self.secrets_sources.split(","))
        return tuple(name for name in names if name)

    @property
    def lease_ms(self) -> int:
        """The lease in milliseconds."""
        return int(self.lease_seconds * 1000)

    @property
    def heartbeat_seconds(self) -> float:
        """Leases are renewed three times before they would run out."""
        return self.lease_seconds / 3

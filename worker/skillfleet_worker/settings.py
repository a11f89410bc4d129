"""Settings of a worker, in addition to those that all processes of a fleet share."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from skillfleet_ledger import Settings


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
    reap_seconds: float = Field(1.0, gt=0)
    """Interval between two rounds of the reaper."""
    stranded_seconds: float = Field(10.0, gt=0)
    """How long a run must be queued before its message may be considered lost."""
    secrets_dir: Path | None = None
    """Folder of secrets, one file each, as Kubernetes mounts them."""
    secrets_env_prefix: str = "SKILLFLEET_SECRET_"
    """Prefix of secrets in the environment: `openai-key` is `SKILLFLEET_SECRET_OPENAI_KEY`."""
    secrets_sources: str = "files,environment"
    """Sources of secrets, in order of precedence; other names are entry points of the group
    `skillfleet.secrets`."""
    a2a_hosts: str = ""
    """Hosts that skills may call over HTTP: names, `*.names`, addresses, networks, separated by
    commas. Empty: none."""
    a2a_credentials: str = ""
    """Names of the secrets that are sent to these hosts as bearer tokens, separated by commas:
    `agents.example.com=partner-token`."""
    a2a_ca_files: str = ""
    """Custom certificate authorities for these hosts, separated by commas:
    `agents.corp=/etc/ca.pem`."""
    a2a_timeout_seconds: float = Field(300.0, gt=0)
    """How long a call over HTTP may take."""
    a2a_max_response_bytes: int = Field(16 * 1024 * 1024, ge=1024)
    """Largest response to such a call."""
    auth_keys: Path | None = None
    """Public keys of producers: a folder of .pem and .jwk files, or a JWKS file."""
    auth_worker_keys: Path | None = None
    """Public keys of workers, which may only sign for the child runs of their own runs."""
    probe_port: int | None = Field(None, ge=0, le=65535)
    """Port of `/livez`, `/readyz` and `/startupz`. Empty: none."""
    probe_host: str = "127.0.0.1"
    """Address on which that port listens."""
    metrics: bool = False
    """Serve Prometheus metrics at `/metrics` of the probe port."""
    redis_transport: Literal["skillfleet", "kombu"] = "skillfleet"
    """Transport that receives messages from Redis: the engine's, or Celery's own (kombu)."""
    pod_deletion_cost: bool = False
    """Report to Kubernetes how busy this pod is, by its deletion-cost annotation; not with
    prefork."""
    pod_name: str = ""
    """Name of this pod."""
    pod_namespace: str = ""
    """Namespace of this pod."""
    kubernetes_url: str = "https://kubernetes.default.svc"
    """URL of the Kubernetes API server."""
    kubernetes_account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """Folder of the service account's token and `ca.crt`."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """Format of log lines; `auto`: `console` on a terminal, else `json`."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged."""

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

"""Settings that all processes of a fleet share; read once at start, then frozen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from skillfleet.contracts import MOST_SECONDS
from skillfleet.errors import SettingsError
from skillfleet_ledger.keys import DEFAULT_NAMESPACE, Keyspace
from skillfleet_ledger.redis_client.address import SCHEMES, Address, split_url

_BROKER_SCHEMES = ("amqp", "amqps", "pyamqp", *SCHEMES, "redis+socket", "sentinel", "sqs")
MEBIBYTE = 1024 * 1024
CELERYS_NAMES = ("celery", "unacked")
"""How Celery's own keys begin; no namespace does."""


class Settings(BaseSettings):
    """Address and limits of the fleet, read by every process.

    Build it with `Settings.load()`, which turns an invalid value into a `SettingsError` that
    names the variable.
    """

    model_config = SettingsConfigDict(env_prefix="SKILLFLEET_", frozen=True, extra="ignore")

    redis_url: str = Field("redis://127.0.0.1:6379/0", repr=False)
    """URL of the ledger's Redis, which is also the broker unless `SKILLFLEET_BROKER_URL` is set;
    also `rediss://` and `unix://`. Special characters in a password are percent-encoded: `#` as
    `%23`, `/` as `%2F`."""
    redis_username: str | None = None
    """User name, if it is not part of the URL."""
    redis_password: SecretStr | None = None
    """Password, if it is not part of the URL."""
    redis_ca_file: Path | None = None
    """PEM file with the certificate authority of a `rediss://` server."""
    broker_url: str | None = Field(None, repr=False)
    """URL of a separate broker, such as `amqp://...`."""
    namespace: str = Field(DEFAULT_NAMESPACE, pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,62}$")
    """Prefix of the fleet's keys; separates several fleets in one Redis."""
    shards: int = Field(1, ge=1, le=1024)
    """Number of parts that the ledger's keys are divided into."""
    redis_timeout_seconds: float = Field(5.0, gt=0, le=3600)
    """How long a call waits for Redis before it fails."""
    default_queue: str = Field("celery", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")
    """Queue for the runs of agents that name no queue."""
    retention_seconds: float = Field(86_400.0, ge=1, le=MOST_SECONDS)
    """How long a run's record, events and artifacts are kept after its end."""
    max_events: int = Field(10_000, ge=100)
    """Most events that a run's stream keeps; older ones are trimmed, and readers are notified."""
    max_arguments_bytes: int = Field(256 * 1024, ge=1024)
    """Largest arguments of a run, as JSON."""
    max_result_bytes: int = Field(MEBIBYTE, ge=1024)
    """Largest result of a run, as JSON."""
    artifacts_url: str | None = Field(None, repr=False)
    """Object store for large artifacts and recorded values: `s3://bucket/prefix`, `gs://...`,
    `az://...`, or `file:///folder` on a volume that workers and producers share."""
    artifact_inline_bytes: int = Field(MEBIBYTE // 16, ge=0)
    """Largest artifact that stays in Redis where there is an object store."""
    max_artifact_bytes: int = Field(64 * MEBIBYTE, ge=1024, le=5 * 1024 * MEBIBYTE)
    """Largest artifact; up to 5 GiB with an object store."""
    max_artifacts: int = Field(1000, ge=1)
    """Most artifacts of one run."""
    workspace: str = ""
    """Adapter for the files of runs and sessions: `directory`, `object_store`, or an entry point of
    the group `skillfleet.workspace`. Empty: none."""
    max_deliveries: int = Field(3, ge=1)
    """Most attempts of a run that may be lost with their workers before the run is dead."""
    unserved_seconds: float = Field(600.0, ge=0, le=MOST_SECONDS)
    """How long a run waits for a worker that serves its skill before it fails. 0: not at all; it
    is refused at once."""
    session_retention_seconds: float = Field(2_592_000.0, ge=1, le=MOST_SECONDS)
    """How long a session is kept without runs: its state, and the list of its runs."""
    max_tree_depth: int = Field(16, ge=1)
    """Greatest depth of runs that call runs."""
    max_tree_runs: int = Field(1000, ge=1)
    """Most runs that one run and all its descendants may call."""
    tenant_claim: str | None = Field(None, min_length=1)
    """Claim of the caller that is the tag `tenant` of all runs: producers set it and workers check
    it. Empty: producers choose that tag themselves."""
    max_schedules: int = Field(1000, ge=1)
    """Most schedules of the fleet."""
    auth: Literal["off", "required"] = "off"
    """`required`: every run needs a signed token that names the caller."""
    auth_issuer: str = Field("skillfleet", min_length=1)
    """Issuer in the fleet's tokens."""
    auth_signing_key_file: Path | None = None
    """Private Ed25519 key that this process signs with: a producer's, or a worker's own."""
    auth_token_seconds: float = Field(86_400.0, ge=1, le=MOST_SECONDS)
    """How long after its submission (and delay) a signed run may start for the first time."""

    @field_validator("namespace")
    @classmethod
    def _is_apart(cls, value: str) -> str:
        # The default namespace's keys of Celery have no prefix: a pattern for them would fit these.
        if value.startswith(CELERYS_NAMES):
            raise ValueError(
                f"it must not begin with {', '.join(CELERYS_NAMES)}: Celery's names do"
            )
        return value

    @field_validator("broker_url")
    @classmethod
    def _is_broker_url(cls, value: str | None) -> str | None:
        # kombu takes several, of which it uses one that answers.
        for url in (value or "").split(";") if value is not None else ():
            if split_url(url, _BROKER_SCHEMES).scheme in SCHEMES:
                Address.parse(url)
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, value: str) -> str:
        Address.parse(value)
        return value

    @classmethod
    def load(cls, **values: Any) -> Self:
        """Read the environment, `values` winning over it; raises SettingsError."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError(_explain(error)) from None

    @property
    def keyspace(self) -> Keyspace:
        """The names of this fleet's keys."""
        return Keyspace(self.namespace, self.shards)

    @property
    def ledger_url(self) -> str:
        """The ledger's URL with credentials and certificate authority filled in."""
        parts = urlsplit(self.redis_url)
        netloc = parts.netloc
        if self.redis_password is not None and "@" not in netloc:
            user = quote(self.redis_username or "", safe="")
            netloc = f"{user}:{quote(self.redis_password.get_secret_value(), safe='')}@{netloc}"
        query = parts.query
        if self.redis_ca_file is not None and parts.scheme == "rediss":
            extra = urlencode({"ssl_ca_certs": str(self.redis_ca_file)})
            query = f"{query}&{extra}" if query else extra
        return _join(parts.scheme, netloc, parts.path, query)

    @property
    def broker_is_ledger(self) -> bool:
        """True when messages and ledger lie in the same Redis, so that one script writes both."""
        return self.broker_url is None or self.broker_url == self.redis_url

    @property
    def celery_broker_url(self) -> str:
        """The broker's URL in Celery's form."""
        return celery_url(self.ledger_url if self.broker_is_ledger else str(self.broker_url))


def celery_url(url: str) -> str:
    """Return a Redis URL as Celery wants it.

    Unix sockets are `redis+socket://` there, and a rediss:// URL must say how certificates
    are checked, in the names of Python's ssl module.
    """
    parts = urlsplit(url)
    if parts.scheme == "unix":
        query = parts.query.replace("db=", "virtual_host=")
        return _join("redis+socket", parts.netloc, parts.path, query)
    if parts.scheme == "rediss":
        options = dict(parse_qsl(parts.query))
        checked = options.get("ssl_cert_reqs", "required")
        options["ssl_cert_reqs"] = checked if "CERT_" in checked else f"CERT_{checked.upper()}"
        return _join(parts.scheme, parts.netloc, parts.path, urlencode(options))
    return url


def _join(scheme: str, netloc: str, path: str, query: str) -> str:
    """Join a URL like urlunsplit, but keep the // of schemes that urllib does not know."""
    return f"{scheme}://{netloc}{path}" + (f"?{query}" if query else "")


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"])
        given: Mapping[str, Any] | Any = problem.get("input")
        # A check of several fields together names its variables itself.
        name = f"SKILLFLEET_{field.upper()}: " if field else ""
        hidden = not field or "password" in field or "url" in field
        text = problem["msg"].removeprefix("Value error, ")
        lines.append(name + text + ("" if hidden else f", not {given!r}"))
    return "; ".join(lines)

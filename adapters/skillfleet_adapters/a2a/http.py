"""Calls over HTTP: settings and creation; the client itself needs the extra `a2a`."""

from pydantic import Field

from skillfleet.errors import SettingsError
from skillfleet.ports.a2a import A2AProvider
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.settings import AdapterSettings
from skillfleet_adapters.a2a.ca_bundles import CABundles
from skillfleet_adapters.a2a.credentials import bearer_tokens
from skillfleet_adapters.a2a.host_allowlist import HostAllowlist


class HttpA2ASettings(AdapterSettings):
    """Calls to remote agents, read by workers."""

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


def create(environment: AdapterEnvironment) -> A2AProvider | None:
    """Return the provider of clients; None when no host may be called. Raises SettingsError."""
    settings = HttpA2ASettings.load(environment.variables)
    if not settings.a2a_hosts:
        return None
    try:
        # Only here: a worker that calls no remote agents does without a2a-sdk and httpx.
        from skillfleet_adapters.a2a.client import HttpA2AProvider  # noqa: PLC0415
        from skillfleet_adapters.a2a.transport import GuardedTransport  # noqa: PLC0415
    except ImportError:
        raise SettingsError(
            "SKILLFLEET_A2A_HOSTS needs A2A's client: pip install 'skillfleet[a2a]'"
        ) from None
    transport = GuardedTransport(
        HostAllowlist.parse(settings.a2a_hosts),
        settings.a2a_max_response_bytes,
        bearer_tokens(settings.a2a_credentials, environment.secret),
        CABundles.parse(settings.a2a_ca_files),
    )
    return HttpA2AProvider(transport, settings.a2a_timeout_seconds)

"""Which host gets which of the worker's secrets as a bearer token."""

from collections.abc import Callable

from skillfleet.errors import SettingsError, UnknownSecretError
from skillfleet.ports.secrets import SHORTEST, Secrets
from skillfleet_telemetry.redaction import process_secrets


def credentials_from(text: str, secrets: Secrets) -> dict[str, Callable[[], str]]:
    """The value of `Authorization` for each host, read anew for each request.

    `text` lists `host=secret` by commas; raises SettingsError when it cannot be read or a
    secret is missing.
    """
    found: dict[str, Callable[[], str]] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        host, equals, name = (part.strip() for part in entry.partition("="))
        if not (host and equals and name):
            raise SettingsError(f"SKILLFLEET_A2A_CREDENTIALS: {entry!r} must be host=secret")
        value = secrets.get(name)
        if value is None:
            raise SettingsError(
                f"SKILLFLEET_A2A_CREDENTIALS: no source has the secret {name!r} for {host}"
            )
        if len(value) < SHORTEST:
            raise SettingsError(
                f"SKILLFLEET_A2A_CREDENTIALS: the secret {name!r} for {host} has fewer than"
                f" {SHORTEST} characters and could not be hidden"
            )
        found[host.lower()] = _bearer(name, secrets)
    return found


def _bearer(name: str, secrets: Secrets) -> Callable[[], str]:
    def value() -> str:
        token = secrets.get(name)
        if token is None:
            raise UnknownSecretError(f"no source of this worker has the secret {name!r}")
        process_secrets.register(token, name)
        return f"Bearer {token}"

    return value

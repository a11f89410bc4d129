"""Bearer tokens by host, from the worker's secrets."""

from collections.abc import Callable

from skillfleet.errors import SettingsError, UnknownSecretError
from skillfleet.ports.secrets import SHORTEST
from skillfleet_telemetry.redaction import process_secrets

SecretLookup = Callable[[str], str | None]
"""The value of a secret; None when no source has it."""


def bearer_tokens(text: str, secret: SecretLookup) -> dict[str, Callable[[], str]]:
    """Return the header `Authorization` of each host; a call of the value reads the secret again.

    `text` lists `host=secret`, separated by commas. Raises SettingsError for a malformed entry
    and for a secret that is missing or too short.
    """
    found: dict[str, Callable[[], str]] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        host, equals, name = (part.strip() for part in entry.partition("="))
        if not (host and equals and name):
            raise SettingsError(f"SKILLFLEET_A2A_CREDENTIALS: {entry!r} must be host=secret")
        value = secret(name)
        if value is None:
            raise SettingsError(
                f"SKILLFLEET_A2A_CREDENTIALS: no source has the secret {name!r} for {host}"
            )
        if len(value) < SHORTEST:
            raise SettingsError(
                f"SKILLFLEET_A2A_CREDENTIALS: the secret {name!r} for {host} has fewer than"
                f" {SHORTEST} characters and could not be redacted"
            )
        found[host.lower()] = _bearer(name, secret)
    return found


def _bearer(name: str, secret: SecretLookup) -> Callable[[], str]:
    def value() -> str:
        token = secret(name)
        if token is None:
            raise UnknownSecretError(f"no source of this worker has the secret {name!r}")
        process_secrets.register(token, name)
        return f"Bearer {token}"

    return value

"""Secrets in environment variables with a prefix."""

from collections.abc import Mapping

from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.secrets import Secrets
from skillfleet.ports.settings import AdapterSettings


class EnvironmentSecretsSettings(AdapterSettings):
    """Secrets from the environment, read by workers."""

    secrets_env_prefix: str = "SKILLFLEET_SECRET_"
    """Prefix of secrets in the environment: `openai-key` is `SKILLFLEET_SECRET_OPENAI_KEY`."""


class EnvironmentSecrets(Secrets):
    """A source that reads `openai-key` from `<PREFIX>OPENAI_KEY`."""

    def __init__(self, environment: Mapping[str, str], prefix: str) -> None:
        self._environment = environment
        self._prefix = prefix

    def get(self, name: str) -> str | None:
        """Return the variable's value; None when it is not set."""
        variable = self._prefix + name.upper().replace("-", "_")
        return self._environment.get(variable)


def create(environment: AdapterEnvironment) -> Secrets:
    """Return the source of the environment's own variables."""
    settings = EnvironmentSecretsSettings.load(environment.variables)
    return EnvironmentSecrets(environment.variables, settings.secrets_env_prefix)

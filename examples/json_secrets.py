"""An adapter: secrets from one JSON file. docs/adapters.md explains it."""

import json
from pathlib import Path

from pydantic_settings import SettingsConfigDict

from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.secrets import Secrets
from skillfleet.ports.settings import AdapterSettings


class JsonSecretsSettings(AdapterSettings):
    """Read from ACME_SECRETS_FILE."""

    model_config = SettingsConfigDict(env_prefix="ACME_SECRETS_")

    file: Path


class JsonSecrets(Secrets):
    """Reads the file at each call, so that a changed secret is seen."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def get(self, name: str) -> str | None:
        """The secret's value; None when the file does not have it."""
        values: dict[str, str] = json.loads(self._file.read_text())
        return values.get(name)


def create(environment: AdapterEnvironment) -> Secrets:
    """The source for a worker; raises SettingsError when the file is not named."""
    return JsonSecrets(JsonSecretsSettings.load(environment.variables).file)

"""Secrets in environment variables with a prefix."""

from collections.abc import Mapping

from skillfleet.ports.secrets import Secrets


class EnvironmentSecrets(Secrets):
    """`openai-key` is `<PREFIX>OPENAI_KEY`."""

    def __init__(self, environment: Mapping[str, str], prefix: str) -> None:
        self._environment = environment
        self._prefix = prefix

    def get(self, name: str) -> str | None:
        """The variable's value; None when it is not set."""
        variable = self._prefix + name.upper().replace("-", "_")
        return self._environment.get(variable)

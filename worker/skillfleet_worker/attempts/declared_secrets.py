"""The secrets of one attempt: those that its skill has declared."""

from dataclasses import dataclass

from skillfleet.errors import UnknownSecretError
from skillfleet.ports.secrets import SHORTEST, Secrets
from skillfleet_telemetry.redaction import process_secrets


@dataclass(frozen=True)
class DeclaredSecrets:
    """The names that a skill has declared, and where their values are."""

    names: tuple[str, ...]
    source: Secrets

    def read(self, name: str) -> str | None:
        """Return the present value, which is redacted in all that the run writes from now on."""
        value = self.source.get(name)
        if value is not None:
            process_secrets.register(value, name)
        return value

    def value(self, name: str) -> str:
        """Return the value of a declared secret; raises UnknownSecretError."""
        if name not in self.names:
            raise UnknownSecretError(
                f"this skill did not declare the secret {name!r}: write secrets=({name!r},)"
            )
        value = self.read(name)
        if value is None:
            raise UnknownSecretError(f"no source of this worker has the secret {name!r}")
        if len(value) < SHORTEST:
            raise UnknownSecretError(
                f"the secret {name!r} has fewer than {SHORTEST} characters: it could not be hidden"
            )
        return value

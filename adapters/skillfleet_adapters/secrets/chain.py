"""Several sources of secrets as one: the first that has the secret answers."""

from collections.abc import Mapping

from skillfleet.errors import UnknownSecretError
from skillfleet.ports.secrets import Secrets


class ChainedSecrets(Secrets):
    """Asks the sources (name -> source) in order."""

    def __init__(self, sources: Mapping[str, Secrets]) -> None:
        self._sources = dict(sources)

    def get(self, name: str) -> str | None:
        """Return the first source's value; None when no source has the secret.

        Raises UnknownSecretError when a source fails: a later one may have an old value.
        """
        for source_name, source in self._sources.items():
            try:
                value = source.get(name)
            except Exception as error:  # noqa: BLE001 - foreign code, whose message may be secret
                raise UnknownSecretError(
                    f"the source {source_name!r} could not look up the secret {name!r}:"
                    f" {type(error).__name__}"
                ) from None
            if value is not None:
                return value
        return None

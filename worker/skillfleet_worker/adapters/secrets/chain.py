"""Several sources of secrets as one: the first that has the secret answers."""

from collections.abc import Sequence

from skillfleet.ports.secrets import Secrets


class ChainedSecrets(Secrets):
    """Asks the sources in order."""

    def __init__(self, sources: Sequence[Secrets]) -> None:
        self._sources = tuple(sources)

    def get(self, name: str) -> str | None:
        """The first source's value; None when no source has the secret."""
        values = (source.get(name) for source in self._sources)
        return next((value for value in values if value is not None), None)

"""The port for secrets: the sources of their values."""

from abc import ABC, abstractmethod
from typing import Final

from skillfleet.ports.loading import Port

SHORTEST = 4
"""The fewest characters of a secret: a shorter one occurs by chance and cannot be redacted."""


class Secrets(ABC):
    """One source of secrets; a runtime asks an ordered list of them.

    Sources belong to a worker process, not to a run: the runtime decides which skill may read
    which secret before it asks a source.

    Concurrency: `get` is called from any thread and any number of times; it answers from
    memory or a local file and never waits for a network. A changed secret is seen by the next
    `get`. Forbidden: a value in an error message, a log line or a `repr`.
    """

    @abstractmethod
    def get(self, name: str) -> str | None:
        """Return the secret's value, or None when this source does not have it."""


SECRETS: Final[Port[Secrets]] = Port("secrets", Secrets, "SKILLFLEET_SECRETS_SOURCES")

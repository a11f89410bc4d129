"""Where secrets come from."""

from abc import ABC, abstractmethod

SHORTEST = 4
"""Characters of a secret, at least: a shorter one cannot be hidden, as it turns up by chance."""


class Secrets(ABC):
    """One source of secrets; a runtime asks an ordered list of them.

    Concurrency: `get` is called from any thread and any number of times; it answers from
    memory or a local file and never waits for a network. A changed secret is seen by the next
    `get`. Forbidden: a value in an error message, a log line or a `repr`.
    """

    @abstractmethod
    def get(self, name: str) -> str | None:
        """The secret's value, or None when this source does not have it."""

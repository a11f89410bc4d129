"""The port for object storage: large values outside of Redis, such as artifacts."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Final

from skillfleet.ports.loading import Port


class ObjectStore(ABC):
    """Stores bytes under keys, in one bucket or folder.

    A key is a path of ASCII letters, digits, `.`, `_` and `-`, with `/` between its parts. The
    ledger writes each key once, so that a store needs no conditional write.

    Concurrency: any number of calls at once, from any event loop. Memory: a few MiB a call,
    however large the object. All methods raise `ObjectStoreError`, which names what to do when the
    store refuses access.
    """

    @abstractmethod
    async def write(self, key: str, data: AsyncIterable[bytes]) -> None:
        """Store an object; it is visible as a whole, or not at all.

        An error that `data` raises is raised again. Cancellation: at any point, without an object.
        """

    @abstractmethod
    def read(self, key: str) -> AsyncIterator[bytes]:
        """Yield the object's bytes in order, in pieces of at most a few MiB.

        Raises `KeyError` for an unknown key.
        """

    @abstractmethod
    def keys(self, folder: str) -> AsyncIterator[str]:
        """Yield the keys of all objects under a folder (`a/b`, without `/` at its end).

        In any order; an object that is written or deleted meanwhile may be missing or present.
        """

    @abstractmethod
    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; one that does not exist is no error."""

    @abstractmethod
    async def sign(self, key: str, seconds: float) -> str:
        """Return a URL that reads the object without credentials for so many seconds.

        Raises `CapabilityUnavailableError` where the store has no such URLs.
        """


OBJECTS: Final[Port[ObjectStore]] = Port("objects", ObjectStore, "SKILLFLEET_ARTIFACTS_URL")
"""An adapter is named by the scheme of the URL, which `create` reads."""

"""Storing what runs write, and reading it back."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from skillfleet.contracts import ArtifactInfo
from skillfleet.types import ArtifactRef


class ArtifactsClient(ABC):
    """The artifacts of one run.

    Concurrency: artifacts of different names may be written at once; two writes of one name
    end with either content whole, never a mixture. A reader sees an artifact only when all of
    it is stored. Cancellation: a cancelled or failed write leaves the former content.
    Forbidden: holding more than a few chunks of an artifact in memory.
    """

    @abstractmethod
    async def write(self, name: str, chunks: AsyncIterator[bytes], mime_type: str) -> ArtifactRef:
        """Store the bytes of `chunks`, in order, under `name`; replaces a former content.

        Raises `ArtifactTooLargeError` over the limit, and whatever `chunks` raises.
        """

    @abstractmethod
    def read(self, name: str) -> AsyncIterator[bytes]:
        """The artifact's bytes, in chunks; raises `UnknownArtifactError` at the first one."""

    @abstractmethod
    async def list(self) -> tuple[ArtifactInfo, ...]:
        """The artifacts that are stored completely, by name."""

"""Objects of runs in the object store: what is too large for Redis.

Redis refers to each one: the description of an artifact, or the digest of a journal's value. An
upload is noted before it begins, so that what nothing refers to is found and deleted.
"""

import os
import uuid
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final
from urllib.parse import urlsplit

from skillfleet.errors import ObjectStoreError
from skillfleet.ports.loading import load
from skillfleet.ports.objects import OBJECTS, ObjectStore
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet_ledger.redis_client.connection import Connection
from skillfleet_ledger.redis_client.script_loader import run_script
from skillfleet_ledger.runs.base import RunOperations
from skillfleet_ledger.runs.records import Lease
from skillfleet_ledger.settings import Settings

_AGAIN_MS: Final = 600_000
"""After how long an object is looked at again; an unused one is deleted then at the latest."""
_MOST: Final = 100
"""Objects that are looked at in one round."""


class RunObjects(RunOperations):
    """The objects of runs. Keys: `NAMESPACE/RUN/OBJECT`, each written once."""

    def __init__(self, connection: Connection, settings: Settings, store: ObjectStore) -> None:
        super().__init__(connection, settings)
        self._store = store

    async def write(
        self, lease: Lease, object_id: str, artifact: str, data: AsyncIterable[bytes]
    ) -> bool:
        """Store an object; False when the attempt no longer holds the lease.

        `artifact` is the name of the artifact that will refer to it, '' for the journal. Raises
        ObjectStoreError, FleetUnavailableError.
        """
        upload = (lease.token, object_id, artifact, _AGAIN_MS)
        if not await self._run("begin_upload", lease.run_id, *upload):
            return False
        await self._store.write(self._object(lease.run_id, object_id), data)
        return True

    def read(self, run_id: str, object_id: str) -> AsyncIterator[bytes]:
        """Yield an object's bytes. Raises KeyError, ObjectStoreError."""
        return self._store.read(self._object(run_id, object_id))

    async def sign(self, run_id: str, object_id: str, seconds: float) -> str:
        """Return a URL that reads an object without credentials for so many seconds."""
        return await self._store.sign(self._object(run_id, object_id), seconds)

    async def sweep(self, shard: int) -> int:
        """Delete objects that nothing refers to; returns how many. Any process may do it."""
        prefix = self._keys.shard_prefix(shard)
        found = await run_script(self._connection, "due_uploads", (prefix,), (_MOST, _AGAIN_MS))
        if not found:
            return 0
        named = [upload.decode().split(":", 3) for upload in found]
        await self._store.delete(
            [self._object(run_id, object_id) for run_id, _, object_id, _ in named]
        )
        await self._connection.execute("ZREM", f"{prefix}uploads", *found)
        return len(found)

    async def probe(self) -> None:
        """Write, read and delete an object that no run has. Raises ObjectStoreError."""
        key = self._object(f"probe-{uuid.uuid4()}", "probe")

        async def data() -> AsyncIterator[bytes]:
            yield b"probe"

        await self._store.write(key, data())
        try:
            found = b"".join([piece async for piece in self._store.read(key)])
        except KeyError as error:
            raise ObjectStoreError(
                f"an object was lost right after it was written: {error}"
            ) from None
        await self._store.delete([key])
        if found != b"probe":
            raise ObjectStoreError("an object was read with other bytes than it was written with")

    def _object(self, run_id: str, object_id: str) -> str:
        """Return an object's key in the store."""
        return f"{self._keys.namespace}/{run_id}/{object_id}"


def object_store(settings: Settings) -> ObjectStore | None:
    """Return the store that SKILLFLEET_ARTIFACTS_URL names; None without one.

    Raises SettingsError.
    """
    if settings.artifacts_url is None:
        return None
    variables = {
        **os.environ,  # noqa: TID251 - adapters read their settings and credentials there
        OBJECTS.variable: settings.artifacts_url,
    }
    environment = AdapterEnvironment(fleet=settings.namespace, variables=variables)
    return load(OBJECTS, urlsplit(settings.artifacts_url).scheme, environment)

"""Object stores of the large clouds, of what speaks S3, and in a folder; by obstore.

Credentials, region and endpoint come from the variables that the tools of each cloud read, such as
`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` and `AWS_ALLOW_HTTP`
(https://developmentseed.org/obstore/latest/authentication/).
"""

import os
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store, from_url
from pydantic import Field

from skillfleet.errors import CapabilityUnavailableError, ObjectStoreError, SettingsError
from skillfleet.ports.objects import OBJECTS, ObjectStore
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.settings import AdapterSettings

_PART_BYTES: Final = 8 * 1024 * 1024
_PARTS_AT_ONCE: Final = 2
_MOST_RETRIES: Final = 10
_PIECE_BYTES: Final = 256 * 1024


class ObjectStoreSettings(AdapterSettings):
    """Object storage of artifacts, read by all processes that write or read them."""

    artifacts_timeout_seconds: float = Field(30.0, gt=0, le=3600)
    """Time limit of one request to the object store."""
    artifacts_retry_seconds: float = Field(60.0, ge=0, le=3600)
    """How long a failed request to the object store is repeated."""


class CloudStore(ObjectStore):
    """An object store by obstore.

    obstore's threads do not exist in a process that is forked off one that has used them: it would
    wait for ever, so it is refused.
    """

    def __init__(self, url: str, settings: ObjectStoreSettings, *, allow_http: bool) -> None:
        scheme = urlsplit(url).scheme
        try:
            if scheme == "file":
                self._store = from_url(url, mkdir=True)
            else:
                self._store = from_url(url, **_options(scheme, settings, allow_http=allow_http))
        except (BaseError, ValueError, OSError) as error:
            raise SettingsError(f"{OBJECTS.variable}: {_first_line(error)}") from None

    async def write(self, key: str, data: AsyncIterable[bytes]) -> None:
        """Store an object, in parts of which two are under way at once."""
        with _errors("write"):
            await obstore.put_async(
                self._store,
                key,
                aiter(data),
                use_multipart=True,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """Yield the object's bytes; raises KeyError."""
        with _errors("read"):
            found = await obstore.get_async(self._store, key)
            async for piece in found.stream(min_chunk_size=_PIECE_BYTES):
                yield bytes(piece)

    async def keys(self, folder: str) -> AsyncIterator[str]:
        """Yield the keys under a folder."""
        with _errors("list"):
            async for batch in obstore.list(self._store, folder):
                for found in batch:
                    yield found["path"]

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, one request each."""
        for key in keys:
            with _errors("delete"):
                try:
                    await obstore.delete_async(self._store, key)
                except FileNotFoundError:
                    continue

    async def sign(self, key: str, seconds: float) -> str:
        """Return a signed URL; a folder has none."""
        if not isinstance(self._store, AzureStore | GCSStore | S3Store):
            raise CapabilityUnavailableError("a folder has no URLs: read the artifact instead")
        with _errors("sign a URL of"):
            return await obstore.sign_async(self._store, "GET", key, timedelta(seconds=seconds))


def _options(scheme: str, settings: ObjectStoreSettings, *, allow_http: bool) -> dict[str, Any]:
    retries = settings.artifacts_retry_seconds
    return {
        "retry_config": {
            "retry_timeout": timedelta(seconds=retries),
            "max_retries": _MOST_RETRIES if retries else 0,
        },
        "client_options": {
            "timeout": timedelta(seconds=settings.artifacts_timeout_seconds),
            "allow_http": allow_http,
        },
        # MinIO's answer to one request for several cannot be read.
        "config": {"disable_bulk_delete": True} if scheme == "s3" else {},
    }


@contextmanager
def _errors(action: str) -> Iterator[None]:
    """Return a context manager that turns the errors of obstore into those of the port."""
    _check_fork()
    try:
        yield
    except FileNotFoundError as error:
        raise KeyError(_first_line(error)) from None
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise ObjectStoreError(
            f"the object store does not let this process {action} an object; check its credentials"
            f" and policy: {_first_line(error)}",
            retryable=False,
        ) from None
    except BaseError as error:
        raise ObjectStoreError(
            f"the object store did not {action} an object: {_first_line(error)}"
        ) from None


class _Threads:
    """The record of where obstore's threads run: in this process, or in one it was forked off."""

    started = False
    lost = False

    @classmethod
    def forked(cls) -> None:
        cls.lost = cls.started


os.register_at_fork(after_in_child=_Threads.forked)


def _check_fork() -> None:
    if _Threads.lost:
        raise ObjectStoreError(
            "the object store was used before this process was forked, and cannot be used after"
            " it: fork first, or start the process anew (spawn)",
            retryable=False,
        )
    _Threads.started = True


def _first_line(error: BaseException) -> str:
    """Return the message without the internals that follow it."""
    return str(error).partition("\n")[0].strip()


def create(environment: AdapterEnvironment) -> ObjectStore | None:
    """Return the store of a URL; None when SKILLFLEET_ARTIFACTS_URL is not set."""
    url = environment.variables.get(OBJECTS.variable)
    settings = ObjectStoreSettings.load(environment.variables)
    # obstore reads its own variables, but for this one beside explicit options.
    plain = environment.variables.get("AWS_ALLOW_HTTP", "").lower() in {"true", "1"}
    return CloudStore(url, settings, allow_http=plain) if url else None

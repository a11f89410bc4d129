"""Checkpoints as content-addressed, incremental packs in object storage."""

import asyncio
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from pydantic import Field

from skillfleet.errors import CheckpointError, SettingsError
from skillfleet.ports.checkpoint import (
    CHECKPOINT,
    Change,
    Checkpoint,
    CheckpointClient,
    CheckpointProvider,
)
from skillfleet.ports.loading import load
from skillfleet.ports.objects import OBJECTS, ObjectStore
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.settings import AdapterSettings
from skillfleet_adapters.checkpoint.folders import FOLDER_FLAGS
from skillfleet_adapters.checkpoint.repository import Call, Head, Index, Repository
from skillfleet_adapters.checkpoint.restoration import Piece, Restoration, replacing
from skillfleet_adapters.checkpoint.snapshot import PACK_BYTES, Previous, Snapshot
from skillfleet_adapters.checkpoint.tree import (
    CHUNK_BYTES,
    Chunk,
    Entry,
    Row,
    Tree,
    changes,
    checked,
    size_of,
)
from skillfleet_adapters.checkpoint.zstandard import compress, decompress

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PACK_LIMIT: Final = PACK_BYTES + CHUNK_BYTES


class ArchiveSettings(AdapterSettings):
    """Checkpoints in object storage, read by workers and the command line."""

    checkpoints_url: str | None = None
    """URL for checkpoints, as `SKILLFLEET_ARTIFACTS_URL`; by default `checkpoints` below that."""
    checkpoints_threads: int = Field(2, ge=1, le=64)
    """How many packs of one checkpoint are compressed, sent or restored at once."""


class ArchiveClient(CheckpointClient):
    """Checkpoints in an object store. Memory: about 40 MiB a thread, and the folder's tree."""

    def __init__(self, store: ObjectStore, threads: int = 2) -> None:
        self._store = store
        self._threads = threads

    async def create(
        self,
        folder: Path,
        *,
        message: str = "",
        position: int | None = None,
        run_id: str | None = None,
        step: str | None = None,
    ) -> Checkpoint:
        """Store the folder's state; only what changed since the newest checkpoint is sent."""
        head = await self.create_head(
            folder, message=message, position=position, run_id=run_id, step=step
        )
        return head.checkpoint

    async def create_head(
        self,
        folder: Path,
        *,
        message: str = "",
        position: int | None = None,
        run_id: str | None = None,
        step: str | None = None,
    ) -> Head:
        """Store the folder's state; return its head."""
        repository = self._repository(folder)
        async with repository.announced("create") as call:
            created_at = datetime.now(UTC)
            parent, previous = await _previous(repository)
            packing = _Packing(repository, call, self._threads)
            try:
                snapshot, rows = await _in_thread(
                    lambda stopped: _read(folder, previous, packing, stopped)
                )
                packs = await asyncio.to_thread(packing.result)
            finally:
                # Uploads need this loop, and end before the announcement does.
                await asyncio.shield(asyncio.to_thread(packing.close))
            index = await asyncio.to_thread(snapshot.index, packs)
            tree_key, index_key = await asyncio.gather(
                repository.put_tree(rows, call), repository.put_index(index, call)
            )
            checkpoint = Checkpoint(
                id="",
                created_at=created_at,
                message=message,
                position=position,
                run_id=run_id,
                step=step,
                size_bytes=size_of(rows),
                parent=parent,
                skipped=tuple(snapshot.skipped),
            )
            return await repository.publish(checkpoint, tree_key, index_key, call)

    async def list(self, folder: Path) -> Sequence[Checkpoint]:
        """Return the folder's checkpoints, the newest first."""
        return [head.checkpoint for head in await self._repository(folder).heads()]

    async def diff(
        self, folder: Path, checkpoint: str, other: str | None = None
    ) -> Sequence[Change]:
        """Return what changed; unchanged files of the folder are not read."""
        repository = self._repository(folder)
        head = await repository.head(checkpoint)
        before = await repository.rows(head)
        if other is not None:
            after = await repository.rows(await repository.head(other))
        else:
            previous = Previous.of(before, await repository.index(head))
            _, after = await _in_thread(
                lambda stopped: _read(folder, previous, lambda *_: None, stopped)
            )
        return await asyncio.to_thread(lambda: changes(checked(before), checked(after)))

    async def restore(self, folder: Path, checkpoint: str, *, into: Path | None = None) -> None:
        """Replace a folder by the checkpoint's state, written beside it first."""
        repository = self._repository(folder)
        head = await repository.head(checkpoint)
        rows, index = await asyncio.gather(repository.rows(head), repository.index(head))
        target = _absolute(into or folder)
        loop = asyncio.get_running_loop()

        def fetch(key: str) -> bytes:
            return asyncio.run_coroutine_threadsafe(repository.get(key), loop).result()

        await _in_thread(
            lambda stopped: _restore(target, checked(rows), index, fetch, self._threads, stopped)
        )

    async def delete(self, folder: Path, checkpoint: str) -> None:
        """Delete a checkpoint, and the objects that no other uses."""
        repository = self._repository(folder)
        await repository.remove(checkpoint)
        await repository.sweep()

    def _repository(self, folder: Path) -> Repository:
        return Repository(self._store, _absolute(folder))


def _absolute(folder: Path) -> Path:
    return Path(os.path.abspath(folder))  # noqa: PTH100 - a symlink stays part of the path


async def _previous(repository: Repository) -> tuple[str | None, Previous]:
    """Return the id of the checkpoint to build upon, and what it knows; (None, ...) without one."""
    sweeping, _ = await repository.calls("sweep")
    head = None if sweeping else await repository.newest()
    if head is None:
        return None, Previous()
    try:
        rows, index = await asyncio.gather(repository.rows(head), repository.index(head))
        return head.checkpoint.id, await asyncio.to_thread(Previous.of, rows, index)
    except CheckpointError as error:
        logger.warning("all content is stored anew: %s", error)
        return None, Previous()


async def _in_thread(work: Callable[[Callable[[], bool]], T]) -> T:
    """Run `work` in a thread; a cancellation stops it and waits until it has ended."""
    stop = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop.is_set))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        with suppress(Exception):
            await task
        raise


def _read(
    folder: Path,
    previous: Previous,
    store: Callable[[int, list[bytes]], None],
    stopped: Callable[[], bool],
) -> tuple[Snapshot, list[Row]]:
    snapshot = Snapshot(previous, store, stopped)
    return snapshot, snapshot.read(folder)


class _Packing:
    """Compresses and stores packs in threads, a few at once."""

    def __init__(self, repository: Repository, call: Call, threads: int) -> None:
        self._repository = repository
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(threads, "checkpoint")
        self._free = threading.Semaphore(threads + 1)
        self._packs: list[Future[tuple[str, int]]] = []

    def __call__(self, number: int, chunks: list[bytes]) -> None:
        """Take a pack; waits while too many are under way."""
        del number
        for pack in self._packs:
            if pack.done() and (error := pack.exception()):
                raise error
        self._free.acquire()
        self._packs.append(self._pool.submit(self._store, chunks))

    def _store(self, chunks: list[bytes]) -> tuple[str, int]:
        try:
            data = b"".join(chunks)
            chunks.clear()
            put = self._repository.put("packs", compress(data), self._call)
            return asyncio.run_coroutine_threadsafe(put, self._loop).result(), len(data)
        finally:
            self._free.release()

    def result(self) -> list[tuple[str, int]]:
        """Return the keys and lengths of all packs, in order."""
        return [pack.result() for pack in self._packs]

    def close(self) -> None:
        """Wait for the packs under way; drop what has not begun."""
        self._pool.shutdown(cancel_futures=True)


_Part = tuple[Entry, Chunk, int]
"""A file, a chunk of it, and the chunk's offset in the pack."""


def _restore(
    target: Path,
    tree: Tree,
    index: Index,
    fetch: Callable[[str], bytes],
    threads: int,
    stopped: Callable[[], bool],
) -> None:
    parts, whole = _parts(tree, index)
    with replacing(target) as staging:
        root = os.open(staging, FOLDER_FLAGS)
        try:
            restoration = Restoration(tree, root)
            restoration.prepare()

            def write(number: int) -> None:
                if stopped():
                    raise CheckpointError("the restore was stopped", retryable=True)
                key, length = index.packs[number]
                _write_pack(restoration, _unpacked(fetch(key), length), parts[number], whole)

            pool = ThreadPoolExecutor(threads, "restore")
            try:
                for done in [pool.submit(write, number) for number in sorted(parts)]:
                    done.result()
            finally:
                pool.shutdown(cancel_futures=True)
            restoration.finish(lambda entry: entry.path in whole)
            if stopped():
                raise CheckpointError("the restore was stopped", retryable=True)
        finally:
            os.close(root)


def _unpacked(data: bytes, length: int) -> bytes:
    if not 0 <= length <= _PACK_LIMIT:
        raise CheckpointError("the checkpoint's index names a pack that is too long")
    return decompress(data, length)


def _parts(tree: Tree, index: Index) -> tuple[dict[int, list[_Part]], set[str]]:
    """Return what each pack holds, and the files that lie in one pack as a whole."""
    chunks = list(tree.chunks())
    if len(chunks) != len(index.places):
        raise CheckpointError("the checkpoint's index does not fit its tree")
    places = {chunk.digest: place for chunk, place in zip(chunks, index.places, strict=True)}
    parts: dict[int, list[_Part]] = defaultdict(list)
    whole = set()
    for entry in tree.entries:
        packs = set()
        for chunk in entry.chunks:
            pack, offset = places[chunk.digest]
            if not 0 <= pack < len(index.packs):
                raise CheckpointError("the checkpoint's index does not fit its packs")
            parts[pack].append((entry, chunk, offset))
            packs.add(pack)
        if len(packs) == 1:
            whole.add(entry.path)
    return parts, whole


def _write_pack(
    restoration: Restoration, pack: bytes, parts: Sequence[_Part], whole: set[str]
) -> None:
    files: dict[str, dict[str, tuple[Entry, list[Piece], bool]]] = defaultdict(dict)
    view = memoryview(pack)
    for entry, chunk, offset in parts:
        data = view[offset : offset + chunk.length]
        if offset < 0 or len(data) != chunk.length:
            raise CheckpointError("the checkpoint's index does not fit its packs")
        folder = entry.path.rpartition("/")[0]
        _, pieces, _ = files[folder].setdefault(entry.path, (entry, [], entry.path in whole))
        pieces.append((chunk.offset, data))
    for folder, found in files.items():
        restoration.write(folder, found.values())


class ArchiveProvider(CheckpointProvider):
    """Makes clients that share one object store."""

    def __init__(self, store: ObjectStore, threads: int) -> None:
        self._client = ArchiveClient(store, threads)

    def client(self) -> CheckpointClient:
        """Return the client, which all runs of a process share."""
        return self._client


def create(environment: AdapterEnvironment) -> CheckpointProvider:
    """Return the provider; raises SettingsError without a URL."""
    settings = ArchiveSettings.load(environment.variables)
    url = settings.checkpoints_url
    if url is None:
        base = environment.variables.get(OBJECTS.variable)
        if not base:
            raise SettingsError(
                f"{CHECKPOINT.variable}=archive needs SKILLFLEET_CHECKPOINTS_URL or"
                f" {OBJECTS.variable}, such as s3://bucket/prefix or file:///folder"
            )
        url = f"{base.rstrip('/')}/checkpoints"
    variables = {**environment.variables, OBJECTS.variable: url}
    store = load(OBJECTS, urlsplit(url).scheme, AdapterEnvironment(variables=variables))
    if store is None:
        raise SettingsError(f"SKILLFLEET_CHECKPOINTS_URL: {url!r} names no object store")
    return ArchiveProvider(store, settings.checkpoints_threads)

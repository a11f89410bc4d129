"""`python -m benchmarks.objects`: measures large artifacts in S3, beside obstore alone.

Each transfer is made by a process of its own, in turn: an artifact of a run through the ledger, and
the same bytes by obstore with the same parts. Memory is the peak of the process above what it had
before; only Linux reports it so.
"""

import asyncio
import hashlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import obstore
import orjson
import typer
from obstore.store import from_url
from rich.console import Console
from rich.table import Table

from skillfleet_ledger import Ledger, Settings
from tests.ledger.helpers import running
from tests.support import s3
from tests.support.valkey import ValkeyServer

MEBIBYTE = 1024 * 1024
PART_BYTES, PARTS_AT_ONCE = 8 * MEBIBYTE, 2

console = Console(width=100)


class Transfer(NamedTuple):
    """One measured transfer: MiB/s in both directions, and the memory it took (MiB)."""

    write: float
    read: float
    memory: float


def main(
    mebibytes: Annotated[int, typer.Option(min=64, help="Size of the artifact.")] = 2048,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    system: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print throughput and memory, medians over the rounds."""
    if system:
        print(orjson.dumps(list(asyncio.run(_SYSTEMS[system](mebibytes)))).decode())
        return
    found: dict[str, list[Transfer]] = {name: [] for name in _SYSTEMS}
    with s3.minio() as server:
        for _ in range(rounds):
            for name, results in found.items():
                results.append(_measured(server, name, mebibytes))
    shown = Table(f"{mebibytes} MiB", "write (MiB/s)", "read (MiB/s)", "memory above idle (MiB)")
    for name, results in found.items():
        medians = (statistics.median(values) for values in zip(*results, strict=True))
        shown.add_row(name, *(f"{value:.0f}" for value in medians))
    console.print(shown)
    console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


def _measured(server: s3.S3Server, system: str, mebibytes: int) -> Transfer:
    command = [sys.executable, "-m", "benchmarks.objects", "--system", system]
    environment = os.environ | server.variables() | {"SKILLFLEET_ARTIFACTS_URL": server.url}
    answer = subprocess.run(
        [*command, "--mebibytes", str(mebibytes)],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    return Transfer(*orjson.loads(answer))


async def _skillfleet(mebibytes: int) -> Transfer:
    server = ValkeyServer("--appendonly", "no", "--save", "")
    server.start()
    limit = (mebibytes + 1) * MEBIBYTE
    ledger = Ledger(Settings.load(redis_url=server.url, max_artifact_bytes=limit))
    try:
        lease = await running(ledger)
        clock = _Clock()
        await ledger.artifacts.write(lease, "large", _data(mebibytes), "application/octet-stream")
        clock.written()
        async for _ in ledger.artifacts.read(lease.run_id, "large"):
            pass
        return clock.read(mebibytes)
    finally:
        await ledger.close()
        server.close()


async def _obstore(mebibytes: int) -> Transfer:
    store: Any = from_url(
        os.environ["SKILLFLEET_ARTIFACTS_URL"],
        client_options={"allow_http": True, "timeout": timedelta(seconds=30)},
    )
    clock, digest = _Clock(), hashlib.sha256()

    async def hashed() -> AsyncIterator[bytes]:
        async for piece in _data(mebibytes):
            digest.update(piece)
            yield piece

    await obstore.put_async(
        store,
        "large",
        hashed(),
        use_multipart=True,
        chunk_size=PART_BYTES,
        max_concurrency=PARTS_AT_ONCE,
    )
    clock.written()
    async for piece in (await obstore.get_async(store, "large")).stream(min_chunk_size=256 * 1024):
        digest.update(piece)
    return clock.read(mebibytes)


_SYSTEMS = {"skillfleet": _skillfleet, "obstore alone, hashed": _obstore}


class _Clock:
    """The times and the peak of memory of one transfer."""

    def __init__(self) -> None:
        self._idle = _idle()
        self._began = self._written = time.perf_counter()

    def written(self) -> None:
        self._written = time.perf_counter()

    def read(self, mebibytes: int) -> Transfer:
        now = time.perf_counter()
        return Transfer(
            mebibytes / (self._written - self._began),
            mebibytes / (now - self._written),
            _peak() - self._idle,
        )


def _idle() -> float:
    """Reset the peak and return it: the memory of now.

    `getrusage` would begin with the memory of the parent process.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) / 1024


async def _data(mebibytes: int) -> AsyncIterator[bytes]:
    piece = os.urandom(MEBIBYTE)
    for _ in range(mebibytes):
        yield piece


if __name__ == "__main__":
    typer.run(main)

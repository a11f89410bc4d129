"""`python -m benchmarks.sandboxes`: measures `run_python("pass")`, beside a bare interpreter.

`cold` starts a sandbox for the call; `warm` takes one that was started before.

The ways are measured in turn, so that other load of the machine meets all of them.
"""

import asyncio
import logging
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from skillfleet import LocalRunContext, NoAuth
from skillfleet.errors import SandboxUnavailable
from skillfleet.ports.loading import load
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.sandbox import SANDBOX
from skillfleet_adapters.sandbox.kinds import Interpreter
from skillfleet_adapters.sandbox.provider import LocalSandboxProvider

KINDS = ("bubblewrap", "landlock")
Way = Callable[[], Awaitable[object]]


async def bare() -> None:
    process = await asyncio.create_subprocess_exec(
        Interpreter.find().path, "-I", "-c", "pass", stdin=subprocess.DEVNULL
    )
    assert await process.wait() == 0


def opened(kind: str, folder: Path, warm: int) -> LocalSandboxProvider:
    variables = {"SKILLFLEET_SANDBOX_DIRECTORY": str(folder), "SKILLFLEET_SANDBOX_WARM": str(warm)}
    provider = load(SANDBOX, kind, AdapterEnvironment(variables=variables))
    assert isinstance(provider, LocalSandboxProvider)
    return provider


def way_of(ctx: LocalRunContext[NoAuth]) -> Way:
    async def way() -> None:
        result = await ctx.sandbox.run_python("pass")
        assert result.ok, result

    return way


async def settled(providers: Iterable[LocalSandboxProvider]) -> None:
    """Wait until the last sandbox has ended and the warm ones have started."""
    while not all(provider.is_idle for provider in providers):  # noqa: ASYNC110 - files
        await asyncio.sleep(0.01)


async def measure(rounds: int, folder: Path) -> dict[str, list[float]]:
    ways: dict[str, Way] = {"bare interpreter": bare}
    providers, contexts = [], []
    for kind, warm in product(KINDS, (0, 1)):
        provider = opened(kind, folder / f"{kind}-{warm}", warm)
        ctx = LocalRunContext(auth=NoAuth(), sandbox=provider)
        contexts.append(ctx)
        try:
            await way_of(ctx)()
        except SandboxUnavailable as error:
            print(error)
        else:
            providers.append(provider)
            ways[f"{kind}, {'warm' if warm else 'cold'}"] = way_of(ctx)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            await settled(providers)
            began = time.perf_counter()
            await way()
            times[name].append((time.perf_counter() - began) * 1000)
    for ctx in contexts:
        await ctx.aclose()
    for provider in providers:
        await provider.aclose()
    return times


def main(rounds: Annotated[int, typer.Option(help="Executions of each way.")] = 50) -> None:
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        times = asyncio.run(measure(rounds, Path(name)))
    table = Table("way", "p50 ms", "p95 ms", title=f'run_python("pass"), {os.cpu_count()} cores')
    for way, each in times.items():
        p95 = statistics.quantiles(each, n=20)[18]
        table.add_row(way, f"{statistics.median(each):.1f}", f"{p95:.1f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)

"""`python -m benchmarks.sandboxes`: measures `run_python("pass")`, beside a bare interpreter.

The ways are measured in turn, so that other load of the machine meets all of them.
"""

import asyncio
import logging
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
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


def opened(kind: str, folder: Path) -> LocalRunContext[NoAuth]:
    variables = {"SKILLFLEET_SANDBOX_DIRECTORY": str(folder)}
    provider = load(SANDBOX, kind, AdapterEnvironment(variables=variables))
    assert isinstance(provider, LocalSandboxProvider)
    return LocalRunContext(auth=NoAuth(), sandbox=provider)


def way_of(ctx: LocalRunContext[NoAuth]) -> Way:
    async def way() -> None:
        result = await ctx.sandbox.run_python("pass")
        assert result.ok, result

    return way


async def measure(rounds: int, folder: Path) -> dict[str, list[float]]:
    ways: dict[str, Way] = {"bare interpreter": bare}
    contexts = []
    for kind in KINDS:
        ctx = opened(kind, folder)
        contexts.append(ctx)
        try:
            await way_of(ctx)()
        except SandboxUnavailable as error:
            print(error)
        else:
            ways[kind] = way_of(ctx)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            await way()
            times[name].append((time.perf_counter() - began) * 1000)
    for ctx in contexts:
        await ctx.aclose()
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

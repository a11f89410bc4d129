"""Code that tries to hold up the worker: deep folders, output without a reader, long lines."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from skillfleet import LocalRunContext, NoAuth
from skillfleet.errors import SandboxRuntimeError
from skillfleet.ports.sandbox import SandboxSpec
from skillfleet_adapters.sandbox.records import delete
from tests.adapters.sandbox.conftest import provider_of


def test_folders_of_any_depth_are_deleted(tmp_path: Path) -> None:
    top, outside = tmp_path / "top", tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(sys.getrecursionlimit() + 100):
        os.symlink(outside, "link", dir_fd=here)
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.fchmod(here, 0)
    os.close(here)
    top.chmod(0)
    delete(top)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (outside / "kept").exists()


async def test_a_file_that_is_too_large_to_get_ends_the_call(kind: str, folder: Path) -> None:
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(kind, folder))
    box = await ctx.sandbox.create(SandboxSpec("box", memory_mib=256))
    assert (await box.shell("head -c 70000000 /dev/zero > large")).ok
    with pytest.raises(SandboxRuntimeError, match="more than"):
        async with asyncio.timeout(60):
            await box.get("large")
    assert (await box.shell("echo usable")).stdout == "usable\n"
    await ctx.aclose()


async def test_an_error_of_the_receiver_of_output_ends_the_command(kind: str, folder: Path) -> None:
    async def receive(_: str, __: bytes) -> None:
        raise LookupError("of the skill")

    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(kind, folder))
    box = await ctx.sandbox.create(SandboxSpec("box"))
    with pytest.raises(LookupError, match="of the skill"):
        async with asyncio.timeout(60):
            await box.shell("yes", on_output=receive)
    assert (await box.shell("echo usable")).stdout == "usable\n"
    await ctx.aclose()


async def test_a_line_without_end_is_cut_in_the_log(kind: str, folder: Path) -> None:
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(kind, folder))
    box = await ctx.sandbox.create(SandboxSpec("box"))
    result = await box.shell("head -c 500000 /dev/zero | tr '\\0' x")
    assert len(result.stdout) == 500_000
    assert 1000 < len(await box.logs()) < 10_000
    await ctx.aclose()

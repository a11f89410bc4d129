"""Sandboxes that are started before they are asked for: each is used once, and none is left."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from skillfleet import LocalRunContext, NoAuth
from skillfleet.ports.sandbox import SandboxSpec
from skillfleet_adapters.sandbox.kinds import Kind
from skillfleet_adapters.sandbox.provider import LocalSandboxProvider
from skillfleet_adapters.sandbox.records import SandboxRecord, SandboxRecords, start_time
from tests.adapters.sandbox.conftest import provider_of, until_warm
from tests.support.waiting import wait_until, wait_until_async

WORKER = """
import asyncio, sys
from pathlib import Path
from skillfleet import LocalRunContext, NoAuth
from tests.adapters.sandbox.conftest import provider_of, until_warm

async def main():
    provider = provider_of(sys.argv[1], Path(sys.argv[2]), SKILLFLEET_SANDBOX_WARM="2")
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider)
    await ctx.sandbox.run_shell("true")
    await until_warm(provider)
    print("ready", flush=True)
    if sys.argv[3] == "killed":
        await asyncio.sleep(600)
asyncio.run(main())
"""

pytestmark = pytest.mark.xdist_group("sandbox-leftovers")


@dataclass
class Warm:
    """A provider with one warm sandbox, and an attempt."""

    kind: str
    folder: Path
    provider: LocalSandboxProvider
    ctx: LocalRunContext[NoAuth]

    def records(self) -> list[SandboxRecord]:
        return SandboxRecords(self.folder, "local").all()

    def ready(self) -> SandboxRecord:
        """Return the record of the sandbox that waits."""
        (record,) = self.records()
        assert (record.run_id, record.lease) == ("", "")
        return record


@pytest.fixture
async def warm(kind: str, folder: Path) -> AsyncIterator[Warm]:
    provider = provider_of(kind, folder, SKILLFLEET_SANDBOX_WARM="1")
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider)
    await ctx.sandbox.run_shell("true")
    await until_warm(provider)
    yield Warm(kind, folder, provider, ctx)
    await ctx.aclose()
    await provider.aclose()
    assert list((folder / "records").iterdir()) == []
    assert list((folder / "folders").iterdir()) == []


async def test_a_use_takes_it_with_its_labels_and_another_is_started(warm: Warm) -> None:
    ready = warm.ready()
    box = await warm.ctx.sandbox.create(SandboxSpec("box", labels={"own": "label"}))
    (taken,) = [record for record in warm.records() if record.id == ready.id]
    assert (taken.run_id, taken.lease, taken.pid) == (warm.ctx.task_id, "1", ready.pid)
    await wait_until_async(lambda: _has(warm, 2), what="the next one")
    await box.stop()
    await until_warm(warm.provider)
    assert warm.ready().id != ready.id


async def _has(warm: Warm, count: int) -> bool:
    return len(warm.records()) == count


async def test_no_use_sees_what_another_left(warm: Warm) -> None:
    leave = """
import os, sys, time
for place in (".", os.environ["TMPDIR"]):
    open(f"{place}/left", "w").close()
os.environ["LEFT"] = sys.left = "1"
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
"""
    look = """
import json, os, sys
found = [os.listdir(place) for place in (".", os.environ["TMPDIR"])]
print(json.dumps([*found, os.environ.get("LEFT"), hasattr(sys, "left"), os.umask(0o22)]))
"""
    seen = set()
    for program in (leave, look, look):
        await until_warm(warm.provider)
        seen.add(warm.ready().id)
        result = await warm.ctx.sandbox.run_python(program)
        assert result.ok, result
        if program is look:
            assert json.loads(result.stdout) == [[], [], None, False, 0o22]
    assert len(seen) == 3


@pytest.mark.parametrize("spec", [SandboxSpec("box", memory_mib=256), SandboxSpec("box", cpus=2)])
async def test_a_spec_with_other_limits_starts_its_own(warm: Warm, spec: SandboxSpec) -> None:
    ready = warm.ready()
    box = await warm.ctx.sandbox.create(spec)
    (own,) = [record for record in warm.records() if record.run_id]
    assert own.id != ready.id
    await box.stop()
    assert warm.ready() == ready


async def test_one_that_has_died_is_not_used(warm: Warm) -> None:
    ready = warm.ready()
    os.kill(ready.pid, signal.SIGKILL)
    wait_until(lambda: start_time(ready.pid) != ready.started, what="its end")
    assert (await warm.ctx.sandbox.run_python("print(1)")).stdout == "1\n"
    await until_warm(warm.provider)
    assert warm.ready().id != ready.id


async def test_one_that_no_longer_fits_is_not_used(
    warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = warm.ready()
    monkeypatch.setattr(type(await warm.provider.kind()), "fits", lambda *_: False)
    box = await warm.ctx.sandbox.create(SandboxSpec("box"))
    assert ready.id not in [record.id for record in warm.records() if record.run_id]
    await box.stop()
    await until_warm(warm.provider)
    assert warm.ready().id != ready.id


async def test_landlock_refuses_a_limit_on_processes_of_another_time(
    warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Kind = await warm.provider.kind()
    launch = kind.launch(SandboxSpec("box"), warm.folder / "folders" / "box")
    assert kind.fits(launch)
    monkeypatch.setattr("skillfleet_adapters.sandbox.kinds._processes_of", lambda _: 10_000)
    assert kind.fits(launch) is (warm.kind == "bubblewrap")
    for path in (warm.folder / "folders").glob("box"):
        (path / "workspace").rmdir()
        (path / "tmp").rmdir()
        path.rmdir()


async def test_a_reaper_of_another_process_leaves_it_while_its_process_lives(warm: Warm) -> None:
    async def holds(_: str, __: str) -> bool:
        return False

    ready = warm.ready()
    await provider_of(warm.kind, warm.folder).reap(holds)
    assert warm.ready() == ready


@pytest.mark.parametrize("end", ["killed", "ended"])
def test_none_survives_its_process(kind: str, folder: Path, end: str) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, kind, str(folder), end], stdout=subprocess.PIPE
    )
    assert worker.stdout is not None
    with worker, worker.stdout:
        assert worker.stdout.readline() == b"ready\n"
        if end == "killed":
            records = SandboxRecords(folder, "local")
            left = records.all()
            assert len(left) == 2
            worker.send_signal(signal.SIGKILL)
            wait_until(lambda: not any(map(records.runs, left)), what="the end of all")
        worker.wait()

    async def holds(_: str, __: str) -> bool:
        return False

    if end == "killed":
        asyncio.run(provider_of(kind, folder).reap(holds))
    assert list((folder / "records").iterdir()) == []
    assert list((folder / "folders").iterdir()) == []


async def test_it_ends_when_it_is_not_used(kind: str, folder: Path) -> None:
    provider = provider_of(
        kind, folder, SKILLFLEET_SANDBOX_WARM="1", SKILLFLEET_SANDBOX_WARM_SECONDS="0.5"
    )
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider)

    async def is_ready() -> bool:
        return any(not each.run_id and each.pid for each in SandboxRecords(folder, "local").all())

    async def none_is_left() -> bool:
        return not SandboxRecords(folder, "local").all()

    for _ in range(2):
        await ctx.sandbox.run_shell("true")
        await wait_until_async(is_ready, what="the warm one")
        await wait_until_async(none_is_left, what="its end")
    await ctx.aclose()
    await provider.aclose()


async def test_none_is_started_before_the_first_use_or_with_the_setting_0(
    kind: str, folder: Path
) -> None:
    started = []
    for size in ("1", "0"):
        provider = provider_of(kind, folder / size, SKILLFLEET_SANDBOX_WARM=size)
        await provider.kind()
        ctx = LocalRunContext(auth=NoAuth(), sandbox=provider)
        if size == "0":
            await ctx.sandbox.run_shell("true")
            await ctx.aclose()
        # Longer than the pause before a start.
        await asyncio.sleep(0.3)
        started += SandboxRecords(folder / size, "local").all()
        await provider.aclose()
    assert started == []

"""Nothing of a sandbox survives the death of its worker."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skillfleet import LocalRunContext, NoAuth
from skillfleet.errors import SandboxRuntimeError
from skillfleet.ports.sandbox import SandboxSpec
from skillfleet_adapters.sandbox.records import SandboxRecord, SandboxRecords
from tests.adapters.sandbox.conftest import provider_of
from tests.adapters.sandbox.processes import LEAVING, processes_of
from tests.support.waiting import wait_until

WORKER = """
import asyncio, sys
from pathlib import Path
from skillfleet import LocalRunContext, NoAuth
from skillfleet.ports.sandbox import SandboxSpec
from tests.adapters.sandbox.conftest import provider_of

async def main():
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(sys.argv[1], Path(sys.argv[2])))
    box = await ctx.sandbox.create(SandboxSpec("box"))
    async def note(*_):
        print("started", flush=True)
    await box.shell(sys.argv[3], on_output=note)
asyncio.run(main())
"""

SCRIPT = LEAVING + "sleep {number}"

pytestmark = pytest.mark.xdist_group("sandbox-leftovers")


def test_a_killed_worker_leaves_no_process_and_the_next_deletes_its_files(
    kind: str, folder: Path, number: int
) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, kind, str(folder), SCRIPT.format(number=number)],
        stdout=subprocess.PIPE,
    )
    assert worker.stdout is not None
    with worker, worker.stdout:
        assert worker.stdout.readline() == b"started\n"
        wait_until(lambda: len(processes_of("sleep", number)) == 6, what="the script's processes")
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    wait_until(lambda: not processes_of("sleep", number), what="the end of the script's processes")
    asyncio.run(_reap_all(kind, folder))


async def test_a_sandbox_whose_attempt_lost_its_lease_is_ended(
    kind: str, folder: Path, number: int
) -> None:
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(kind, folder))
    box = await ctx.sandbox.create(SandboxSpec("box"))
    started = asyncio.Event()

    async def note(_: str, __: bytes) -> None:
        started.set()

    command = asyncio.ensure_future(box.shell(SCRIPT.format(number=number), on_output=note))
    await started.wait()
    asked = []

    async def holds(run_id: str, lease: str) -> bool:
        asked.append(run_id)
        return True

    await provider_of(kind, folder).reap(holds)
    assert asked == [ctx.task_id]
    assert not command.done()
    await _reap_all(kind, folder)
    with pytest.raises(SandboxRuntimeError):
        await command
    wait_until(lambda: not processes_of("sleep", number), what="the end of the script's processes")
    await ctx.aclose()


async def _reap_all(kind: str, folder: Path) -> None:
    async def holds(_: str, __: str) -> bool:
        return False

    await provider_of(kind, folder).reap(holds)
    assert not list((folder / "records").iterdir())
    assert not list((folder / "folders").iterdir())


async def test_what_a_killed_worker_had_not_finished_does_not_stop_the_reaper(
    kind: str, folder: Path
) -> None:
    records, folders = folder / "records", folder / "folders"
    provider = provider_of(kind, folder)
    await provider.kind()
    (records / "unfinished.new").write_text('{"id": "unf')
    (records / "unreadable.json").write_text("")
    (records / "other-version.json").write_text('{"color": "red"}')
    (folders / "unreadable" / "workspace").mkdir(parents=True)
    (folders / "without-record").mkdir(mode=0)
    young = records / "young.new"
    young.write_text("")
    other = SandboxRecord("other", "other-fleet", "run", "1")
    SandboxRecords(folder, "other-fleet").write(other)

    async def holds(_: str, __: str) -> bool:
        return False

    await provider.reap(holds)
    assert len(list(records.iterdir())) == 5, "they may be under way"
    assert len(list(folders.iterdir())) == 2
    for path in {*records.iterdir(), *folders.iterdir()} - {young}:
        os.utime(path, (0, 0))
    await provider.reap(holds)
    assert {path.name for path in records.iterdir()} == {"other.json", "young.new"}
    assert list(folders.iterdir()) == []

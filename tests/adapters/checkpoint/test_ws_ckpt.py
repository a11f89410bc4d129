"""The adapter of `ws-ckpt`, against a stand-in that plays each documented behaviour."""

import sys
import time
from pathlib import Path

import pytest

from skillfleet.errors import CapabilityUnavailableError, CheckpointError
from skillfleet.ports.checkpoint import CheckpointClient
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.testing.conformance import CheckpointSuite
from skillfleet_adapters.checkpoint import ws_ckpt
from tests.support.waiting import wait_until_async

STAND_IN = Path(__file__).with_name("ws_ckpt_stand_in.py")


def command(folder: Path, mode: str = "") -> Path:
    """Write the stand-in's command, which plays `mode`."""
    store = folder / "snapshots"
    store.mkdir(exist_ok=True)
    path = folder / f"ws-ckpt-{mode}"
    path.write_text(
        f"#!/bin/sh\nWS_CKPT_STORE='{store}' WS_CKPT_MODE={mode} exec {sys.executable} -S"
        f' {STAND_IN} "$@"\n'
    )
    path.chmod(0o755)
    return path


def client(folder: Path, mode: str = "", seconds: float = 20) -> CheckpointClient:
    variables = {
        "SKILLFLEET_WS_CKPT_COMMAND": str(command(folder, mode)),
        "SKILLFLEET_WS_CKPT_TIMEOUT_SECONDS": str(seconds),
    }
    provider = ws_ckpt.create(AdapterEnvironment(variables=variables))
    assert provider is not None
    return provider.client()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "file").write_text("first")
    return tmp_path / "work"


class TestWsCkpt(CheckpointSuite):
    @pytest.fixture(autouse=True)
    def _store(self, tmp_path: Path) -> None:
        self._base = tmp_path

    def client(self) -> CheckpointClient:
        return client(self._base)


def test_an_absent_command_leaves_the_adapter_off(tmp_path: Path) -> None:
    variables = {"SKILLFLEET_WS_CKPT_COMMAND": str(tmp_path / "none")}
    assert ws_ckpt.create(AdapterEnvironment(variables=variables)) is None


async def test_a_skipped_checkpoint_is_an_error_although_the_command_succeeds(
    tmp_path: Path, folder: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"skipped .* empty"):
        await client(tmp_path, "skipped").create(folder)


async def test_a_success_with_another_id_is_an_error(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="did not make"):
        await client(tmp_path, "liar").create(folder)


async def test_a_failure_that_made_the_checkpoint_is_a_success(
    tmp_path: Path, folder: Path
) -> None:
    made = await client(tmp_path, "silent").create(folder, message="m", position=3)
    assert (made.message, made.position) == ("m", 3)
    assert [each.id for each in await client(tmp_path).list(folder)] == [made.id]


async def test_a_write_conflict_is_tried_again(tmp_path: Path, folder: Path) -> None:
    made = await client(tmp_path, "conflict").create(folder)
    assert [each.id for each in await client(tmp_path).list(folder)] == [made.id]


async def test_a_lasting_write_conflict_is_retryable(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="WriteLockConflict") as raised:
        await client(tmp_path, "conflicts").create(folder)
    assert raised.value.retryable


async def test_a_call_that_hangs_is_killed_with_its_children(tmp_path: Path, folder: Path) -> None:
    began = time.monotonic()
    with pytest.raises(CheckpointError, match="was killed") as raised:
        await client(tmp_path, "hang", seconds=2).create(folder)
    assert raised.value.retryable
    assert time.monotonic() - began < 20
    child = int((tmp_path / "snapshots" / "child").read_text())
    await wait_until_async(lambda: gone(child))


async def gone(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()  # noqa: ASYNC240 - from memory
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


async def test_an_absent_daemon_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="start its daemon") as raised:
        await client(tmp_path, "daemon").create(folder)
    assert raised.value.retryable


async def test_an_advisory_is_no_failure(tmp_path: Path, folder: Path) -> None:
    advised = client(tmp_path, "advisory")
    made = await advised.create(folder, message="-m is no option")
    (folder / "file").write_text("second")
    await advised.restore(folder, made.id)
    assert (folder / "file").read_text() == "first"
    assert (await advised.list(folder))[0].message == "-m is no option"


async def test_a_rollback_and_a_deletion_are_confirmed(tmp_path: Path, folder: Path) -> None:
    made = await client(tmp_path).create(folder)
    with pytest.raises(CheckpointError, match="roll back"):
        await client(tmp_path, "liar").restore(folder, made.id)
    with pytest.raises(CheckpointError, match="delete"):
        await client(tmp_path, "liar").delete(folder, made.id)


async def test_a_process_inside_is_named(tmp_path: Path, folder: Path) -> None:
    made = await client(tmp_path).create(folder)
    with pytest.raises(CheckpointError, match="current folder inside"):
        await client(tmp_path, "occupied").restore(folder, made.id)


async def test_a_prefix_is_not_an_id(tmp_path: Path, folder: Path) -> None:
    made = await client(tmp_path).create(folder)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        await client(tmp_path).delete(folder, made.id[:-1])


async def test_old_versions_compare_checkpoints_only(tmp_path: Path, folder: Path) -> None:
    old = client(tmp_path, "old")
    made = await old.create(folder)
    with pytest.raises(CapabilityUnavailableError, match="compares checkpoints only"):
        await old.diff(folder, made.id)


async def test_another_folder_is_refused(tmp_path: Path, folder: Path) -> None:
    made = await client(tmp_path).create(folder)
    with pytest.raises(CapabilityUnavailableError):
        await client(tmp_path).restore(folder, made.id, into=tmp_path / "fork")

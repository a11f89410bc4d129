"""Which kind is chosen and reported, and what is refused."""

import logging
import os
from pathlib import Path

import pytest

from skillfleet import LocalRunContext, NoAuth
from skillfleet.errors import (
    CapabilityUnavailableError,
    InvalidArgumentsError,
    SandboxUnavailable,
    SettingsError,
)
from skillfleet.ports.loading import load
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.sandbox import SANDBOX, SandboxSpec
from skillfleet_adapters.sandbox.kinds import Bubblewrap, Landlock
from skillfleet_adapters.sandbox.records import SandboxRecord, SandboxRecords
from tests.adapters.sandbox.conftest import provider_of, require


@pytest.fixture(autouse=True)
def _log_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def no_lease(_: str, __: str) -> bool:
    return False


async def test_auto_takes_the_strongest_and_says_what_it_isolates(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    require("bubblewrap")
    provider = provider_of("auto", folder)
    # The worker reaps as it starts: the choice is in the log before the first run.
    await provider.reap(no_lease)
    assert (await provider.kind()).name == "bubblewrap"
    *_, line = [text for text in caplog.messages if text.startswith("sandboxes: bubblewrap")]
    assert Bubblewrap.description in line


async def test_auto_takes_the_next_and_says_why(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("landlock")
    monkeypatch.setenv("PATH", "")
    provider = provider_of("auto", folder)
    assert (await provider.kind()).name == "landlock"
    *_, line = [text for text in caplog.messages if text.startswith("sandboxes: landlock")]
    assert "(bubblewrap: the program bwrap (bubblewrap) is not installed)" in line
    assert Landlock.description in line


async def test_auto_does_not_take_a_kind_that_is_there_and_does_not_work(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("landlock")
    program = folder / "bwrap"
    program.write_text("#!/bin/sh\necho No permissions to create new namespace >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    assert (await provider_of("auto", folder).kind()).name == "landlock"
    assert "No permissions to create new namespace" in caplog.text


async def test_without_any_kind_nothing_is_executed(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("skillfleet_adapters.sandbox.kinds._landlock_version", lambda: -1)
    provider = provider_of("auto", folder)
    await provider.reap(no_lease)
    assert "no sandbox works on this machine: bubblewrap: " in caplog.text
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider)
    marker = folder / "executed"
    with pytest.raises(SandboxUnavailable, match=r"bubblewrap: .*; landlock: the kernel"):
        await ctx.sandbox.run_shell(f"touch {marker}")
    with pytest.raises(SandboxUnavailable):
        await ctx.sandbox.create(SandboxSpec("box"))
    assert not marker.exists()


def test_there_is_no_kind_called_none() -> None:
    with pytest.raises(SettingsError, match="no sandbox adapter 'none'; known are: auto"):
        load(SANDBOX, "none", AdapterEnvironment())


async def test_a_context_opens_real_sandboxes_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("bubblewrap")
    monkeypatch.setenv("SKILLFLEET_SANDBOX_DIRECTORY", str(folder))
    monkeypatch.setenv("SKILLFLEET_SANDBOX_WARM", "0")
    ctx = LocalRunContext(auth=NoAuth(), sandbox="auto")
    assert (await ctx.sandbox.run_python("print(6 * 7)")).stdout == "42\n"
    await ctx.sandbox.create(SandboxSpec("box"))
    assert len(list((folder / "records").iterdir())) == 1
    await ctx.aclose()
    assert list((folder / "records").iterdir()) == []


def test_a_context_with_an_unknown_kind_says_which_there_are() -> None:
    ctx = LocalRunContext(auth=NoAuth(), sandbox="docker")
    with pytest.raises(SettingsError, match="no sandbox adapter 'docker'; known are: auto, bubb"):
        _ = ctx.sandbox


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        (SandboxSpec("box", image="alpine"), CapabilityUnavailableError, "alpine"),
        (SandboxSpec("box", memory_mib=63), InvalidArgumentsError, "64 MiB"),
        (SandboxSpec("box", cpus=0), InvalidArgumentsError, "cpus"),
    ],
)
async def test_a_spec_that_it_cannot_provide_is_refused(
    kind: str, folder: Path, spec: SandboxSpec, error: type[Exception], said: str
) -> None:
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(kind, folder))
    with pytest.raises(error, match=said):
        await ctx.sandbox.create(spec)
    assert await ctx.sandbox.list() == []
    await ctx.aclose()


@pytest.fixture
def shared_folder(folder: Path) -> Path:
    folder.chmod(0o777)
    return folder


async def test_a_folder_that_others_can_write_is_refused(kind: str, shared_folder: Path) -> None:
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(kind, shared_folder))
    with pytest.raises(SandboxUnavailable, match="can be written by other users"):
        await ctx.sandbox.run_shell("true")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
async def test_a_folder_of_another_user_is_refused(kind: str, folder: Path) -> None:
    os.chown(folder, 65534, 65534)
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_of(kind, folder))
    with pytest.raises(SandboxUnavailable, match="is not a folder of this user"):
        await ctx.sandbox.run_shell("true")


async def test_a_trial_that_another_process_begins_is_left_alone(folder: Path) -> None:
    provider = provider_of("auto", folder)
    records = SandboxRecords(folder, "local")
    records.open()
    begun = SandboxRecord("begun", "local", "", "")
    records.write(begun)
    await provider.reap(no_lease)
    assert records.all() == [begun]
    (record,) = folder.rglob("begun.json")  # noqa: ASYNC240 - a local folder
    os.utime(record, (0, 0))
    await provider.reap(no_lease)
    assert records.all() == []

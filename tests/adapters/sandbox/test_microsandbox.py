"""The kind `microsandbox`, against a stand-in of its package, and the choice of `auto` with it."""

import inspect
import logging
import platform
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from skillfleet import LocalRunContext, NoAuth
from skillfleet.errors import CapabilityUnavailableError, SandboxUnavailable
from skillfleet.ports.loading import load
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.sandbox import SANDBOX, HostSecret, SandboxProvider, SandboxSpec
from skillfleet.ports.workspace import WorkspaceView
from skillfleet.testing.conformance.sandbox import SandboxSuite
from skillfleet_adapters.sandbox import microsandbox, strongest
from tests.adapters.sandbox import fake_microsandbox
from tests.adapters.sandbox.cluster import Cluster, serving
from tests.adapters.sandbox.conftest import require
from tests.adapters.sandbox.test_kubernetes import POOL, provider_at

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the stand-in's machines are processes of Linux"
)


@pytest.fixture
def hardware(tmp_path: Path) -> microsandbox.Hardware:
    """Return a machine with virtualisation."""
    found = microsandbox.Hardware(tmp_path / "kvm", tmp_path / "cpuinfo")
    found.kvm.touch()
    found.cpu.write_text("flags\t\t: fpu vme svm\n")
    return found


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the stand-in."""
    monkeypatch.setitem(sys.modules, "microsandbox", fake_microsandbox)
    monkeypatch.setattr(microsandbox, "version", lambda _: fake_microsandbox.__version__)
    monkeypatch.setattr(microsandbox, "is_installed", lambda: True)
    yield
    assert fake_microsandbox.machines == {}, "no machine outlives its attempt"


def provider_on(hardware: microsandbox.Hardware) -> SandboxProvider:
    machines = microsandbox.VirtualMachines(AdapterEnvironment(), hardware)
    return microsandbox.MicrosandboxProvider(machines)


@pytest.mark.usefixtures("package")
class TestVirtualMachines(SandboxSuite):
    @pytest.fixture(autouse=True)
    def _hardware(self, hardware: microsandbox.Hardware) -> None:
        self.hardware = hardware

    def provider(self) -> AbstractAsyncContextManager[SandboxProvider]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[SandboxProvider]:
            yield provider_on(self.hardware)

        return opened()


@pytest.mark.usefixtures("package")
async def test_a_machine_has_no_network_and_the_labels_of_its_attempt(
    hardware: microsandbox.Hardware,
) -> None:
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_on(hardware), task_id="run-1")
    await ctx.sandbox.create(SandboxSpec("box", image="python:3.13", memory_mib=256, cpus=1.5))
    (machine,) = fake_microsandbox.machines.values()
    assert machine.options["network"] == fake_microsandbox.Network(
        fake_microsandbox.NetworkPolicy.none()
    )
    assert machine.options["security"] == "restricted"
    assert machine.options["ephemeral"] is True
    assert machine.options["image"] == "python:3.13"
    assert (machine.options["memory"], machine.options["cpus"]) == (256, 2)
    assert machine.options["labels"]["skillfleet.run"] == "run-1"
    await ctx.aclose()


@pytest.mark.usefixtures("package")
async def test_machines_of_lost_attempts_are_ended(
    hardware: microsandbox.Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fake_microsandbox.page_size, "most", 1)
    provider = provider_on(hardware)
    contexts = [
        LocalRunContext(auth=NoAuth(), sandbox=provider, task_id=f"run-{number}")
        for number in range(3)
    ]
    for ctx in contexts:
        await ctx.sandbox.create(SandboxSpec("box"))
    foreign = await fake_microsandbox.Sandbox.create(
        "foreign", image="x", labels={"skillfleet.fleet": "other"}
    )

    async def holds(run_id: str, lease: str) -> bool:
        assert lease
        return run_id == "run-1"

    await provider.reap(holds)
    left = [each.options["labels"].get("skillfleet.run") for each in
            fake_microsandbox.machines.values()]  # fmt: skip
    assert sorted(left, key=str) == [None, "run-1"]
    await foreign.destroy(force=True)
    for ctx in contexts:
        await ctx.aclose()


async def test_without_the_package_it_says_how_to_install_it(
    hardware: microsandbox.Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "microsandbox", None)
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_on(hardware))
    with pytest.raises(SandboxUnavailable, match=r'pip install "microsandbox>=0\.7\.11,<0\.8"'):
        await ctx.sandbox.run_python("pass")


@pytest.mark.usefixtures("package")
async def test_another_series_of_the_package_is_refused(
    hardware: microsandbox.Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microsandbox, "version", lambda _: "0.8.0")
    with pytest.raises(SandboxUnavailable, match=r"0\.8\.0 is of another series"):
        await provider_on(hardware).report()


@pytest.mark.usefixtures("package")
async def test_an_incomplete_runtime_is_refused(
    hardware: microsandbox.Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fake_microsandbox.runtime, "installed", False)
    with pytest.raises(SandboxUnavailable, match="runtime is incomplete"):
        await provider_on(hardware).report()


@pytest.mark.usefixtures("package")
async def test_without_hardware_virtualisation_nothing_is_executed(
    hardware: microsandbox.Hardware,
) -> None:
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_on(hardware))
    if platform.machine() == "x86_64":
        hardware.cpu.write_text("flags\t\t: fpu vme\n")
        with pytest.raises(SandboxUnavailable, match=r"no hardware virtualisation \(vmx, svm\)"):
            await ctx.sandbox.run_python("pass")
    hardware.kvm.unlink()
    with pytest.raises(SandboxUnavailable, match=r"there is no .*kvm"):
        await ctx.sandbox.run_python("pass")
    await ctx.aclose()


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (SandboxSpec("box", egress=("example.com",)), "egress"),
        (SandboxSpec("box", secrets=(HostSecret("key", "example.com"),)), "secrets"),
        (SandboxSpec("box", workspace=cast("WorkspaceView", object())), "workspace"),
    ],
)
async def test_a_spec_that_it_cannot_provide_is_refused(
    hardware: microsandbox.Hardware, spec: SandboxSpec, said: str
) -> None:
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider_on(hardware))
    with pytest.raises(CapabilityUnavailableError, match=said):
        await ctx.sandbox.create(spec)
    await ctx.aclose()


if microsandbox.is_installed():  # it is large, and no lock has it

    def test_the_stand_in_has_the_parameters_of_the_package() -> None:
        real = microsandbox.load_package()
        for name in ("create", "get", "list_with", "exec", "destroy"):
            assert callable(getattr(real.Sandbox, name))
        stub = Path(real.__file__).with_name("_microsandbox.pyi").read_text()
        for word in ("ephemeral", "labels", "network", "security", "memory", "cpus", "cursor"):
            assert f"{word}: " in stub
        errors = [
            name
            for name, found in vars(fake_microsandbox).items()
            if inspect.isclass(found) and issubclass(found, fake_microsandbox.MicrosandboxError)
        ]
        assert [name for name in errors if not hasattr(real, name)] == []
        assert real.Network(policy=real.NetworkPolicy.none()).policy is not None
        assert real.SecurityProfile.RESTRICTED == "restricted"


@pytest.fixture
def bubblewrap() -> None:
    require("bubblewrap")


@pytest.mark.usefixtures("package", "bubblewrap")
async def test_auto_takes_what_is_set_up_and_works_and_says_why_not_the_others(
    hardware: microsandbox.Hardware,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    cluster = Cluster()
    monkeypatch.setattr(microsandbox, "Hardware", lambda: hardware)

    async def chosen(**variables: str) -> str:
        provider = load(SANDBOX, "auto", AdapterEnvironment(variables=variables))
        assert provider is not None
        ctx = LocalRunContext(auth=NoAuth(), sandbox=provider)
        assert (await ctx.sandbox.run_python("print(1)")).stdout == "1\n"
        report = await provider.report()
        assert f"sandboxes: {report}" in caplog.text
        await ctx.aclose()
        await provider.aclose()
        return report

    with serving(cluster) as port:
        await provider_at(tmp_path, port, **POOL).aclose()
        url = f"http://127.0.0.1:{port}"
        variables = {
            "SKILLFLEET_KUBERNETES_URL": url,
            "SKILLFLEET_KUBERNETES_ACCOUNT": str(tmp_path / "account"),
            "SKILLFLEET_SANDBOX_ROUTER_URL": url,
        }
        assert (await chosen(**POOL, **variables)).startswith("kubernetes.")
        cluster.denied = {("create", "sandboxclaims")}
        report = await chosen(**POOL, **variables)
        assert report.startswith("microsandbox.")
        assert "may not create sandboxclaims" in report
    assert "stronger ones" not in await chosen()
    hardware.kvm.unlink()
    report = await chosen()
    assert report.startswith("bubblewrap.")
    assert "microsandbox: there is no" in report


async def test_auto_without_a_machine_or_a_cluster_is_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(microsandbox, "is_installed", lambda: False)
    provider = strongest.create(AdapterEnvironment())
    assert not isinstance(provider, strongest.StrongestProvider)

"""Sandboxes in Kubernetes, against a stand-in of the API server and of the runtime."""

import asyncio
import copy
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from skillfleet import LocalRunContext, NoAuth
from skillfleet.errors import (
    CapabilityUnavailableError,
    SandboxRuntimeError,
    SandboxUnavailable,
    SettingsError,
)
from skillfleet.ports.loading import load
from skillfleet.ports.provider import AdapterEnvironment
from skillfleet.ports.sandbox import (
    DEFAULT_IMAGE,
    SANDBOX,
    HostSecret,
    SandboxProvider,
    SandboxSpec,
)
from skillfleet.ports.workspace import WorkspaceView
from skillfleet.testing.conformance.sandbox import SandboxSuite
from skillfleet_adapters.sandbox.kubernetes import objects
from skillfleet_adapters.sandbox.remote.process import content_of
from tests.adapters.sandbox.cluster import TOKEN, Cluster, serving
from tests.support.agent_sandbox import problem_of

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the stand-in's sandboxes are processes of Linux"
)

POOL = {"SKILLFLEET_SANDBOX_WARM_POOL": "python"}
IMAGE = {"SKILLFLEET_SANDBOX_IMAGE": "runtime:1"}


def provider_at(folder: Path, port: int, **variables: str) -> SandboxProvider:
    """Return the provider of a worker's pod whose API server and router is the stand-in."""
    account = folder / "account"
    account.mkdir(exist_ok=True)
    (account / "token").write_text(f"{TOKEN}\n")
    (account / "namespace").write_text("agents")
    url = f"http://127.0.0.1:{port}"
    settings = {
        "SKILLFLEET_KUBERNETES_URL": url,
        "SKILLFLEET_KUBERNETES_ACCOUNT": str(account),
        "SKILLFLEET_SANDBOX_ROUTER_URL": url,
        **variables,
    }
    environment = AdapterEnvironment(fleet="local", variables=settings)
    provider = load(SANDBOX, "kubernetes", environment)
    assert provider is not None
    return provider


class TestSandboxesOfAPool(SandboxSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def provider(self) -> AbstractAsyncContextManager[SandboxProvider]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[SandboxProvider]:
            cluster = Cluster()
            with serving(cluster) as port:
                yield provider_at(self.folder, port, **POOL)
                assert cluster.objects == {}, "the attempt's claims are deleted with it"
                assert cluster.pods == {}

        return opened()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def port(cluster: Cluster) -> Iterator[int]:
    with serving(cluster) as port:
        yield port


@asynccontextmanager
async def attempt(
    provider: SandboxProvider, run_id: str = "run-1"
) -> AsyncIterator[LocalRunContext[Any]]:
    ctx = LocalRunContext(auth=NoAuth(), sandbox=provider, task_id=run_id)
    try:
        yield ctx
    finally:
        await ctx.aclose()
        await provider.aclose()


async def test_a_claim_names_the_pool_the_attempt_and_the_end(
    cluster: Cluster, port: int, tmp_path: Path
) -> None:
    async with attempt(provider_at(tmp_path, port, **POOL)) as ctx:
        assert (await ctx.sandbox.run_shell("echo hi")).stdout == "hi\n"
        (claim,) = cluster.created
        assert claim["kind"] == "SandboxClaim"
        assert claim["spec"]["warmPoolRef"] == {"name": "python"}
        lifecycle = claim["spec"]["lifecycle"]
        age = datetime.fromisoformat(lifecycle["shutdownTime"]) - datetime.now(UTC)
        assert 86000 < age.total_seconds() <= 86400
        assert lifecycle["shutdownPolicy"] == "Delete"
        metadata = claim["metadata"]
        assert metadata["annotations"]["skillfleet.fleet"] == "local"
        assert metadata["annotations"]["skillfleet.run"] == ctx.task_id
        assert metadata["labels"]["skillfleet.run"] == ctx.task_id
        assert claim["spec"]["additionalPodMetadata"] == {"annotations": metadata["annotations"]}


async def test_a_sandbox_of_its_own_is_unprivileged_and_of_limited_size(
    cluster: Cluster, port: int, tmp_path: Path
) -> None:
    variables = IMAGE | {"SKILLFLEET_SANDBOX_RUNTIME_CLASS": "gvisor"}
    async with attempt(provider_at(tmp_path, port, **variables)) as ctx:
        box = await ctx.sandbox.create(SandboxSpec("box", memory_mib=256, cpus=0.5))
        assert (await box.shell("echo hi")).stdout == "hi\n"
        (found,) = cluster.created
        pod = found["spec"]["podTemplate"]["spec"]
        assert pod["runtimeClassName"] == "gvisor"
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["image"] == "runtime:1"
        assert container["resources"]["limits"] == {
            "memory": "256Mi",
            "cpu": "500m",
            "ephemeral-storage": "256Mi",
        }
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_schemas_refuse_what_the_api_server_refuses() -> None:
    labels = {"skillfleet.fleet": "f" * 100, "skillfleet.run": "r", "skillfleet.lease": "l"}
    metadata, until = objects.metadata("name", labels), datetime.now(UTC)
    claim = objects.claim(metadata, "pool", until)
    assert problem_of(claim) is None
    claim["spec"]["warmPool"] = "pool"
    assert "warmPool" in (problem_of(claim) or "")
    pods = objects.Pods("", 8888)
    sandbox = objects.sandbox(metadata, SandboxSpec("box"), "image", pods, until)
    assert problem_of(sandbox) is None
    sandbox["spec"]["podTemplate"]["spec"]["runtimeClas"] = "gvisor"
    assert "runtimeClas" in (problem_of(sandbox) or "")


async def test_a_router_gets_the_name_of_the_sandbox_and_its_address(
    cluster: Cluster, port: int, tmp_path: Path
) -> None:
    async with attempt(provider_at(tmp_path, port, **POOL)) as ctx:
        await ctx.sandbox.create(SandboxSpec("box"))
        (name,) = cluster.pods
        headers = cluster.seen_runtime_headers[0]
        assert headers["X-Sandbox-ID"] == name
        assert headers["X-Sandbox-Namespace"] == "agents"
        assert headers["X-Sandbox-Pod-IP"] == "127.0.0.1"
        assert headers["X-Sandbox-Port"] == "8888"
        assert headers["Authorization"] is None


async def test_without_a_router_the_pod_itself_is_called(
    cluster: Cluster, port: int, tmp_path: Path
) -> None:
    direct = {"SKILLFLEET_SANDBOX_ROUTER_URL": "", "SKILLFLEET_SANDBOX_PORT": str(port)}
    async with attempt(provider_at(tmp_path, port, **POOL, **direct)) as ctx:
        assert (await ctx.sandbox.run_python("print(1)")).stdout == "1\n"
    assert cluster.seen_runtime_headers[0]["X-Sandbox-ID"] is None


async def test_a_server_that_is_down_for_a_moment_is_asked_again(
    cluster: Cluster, port: int, tmp_path: Path
) -> None:
    cluster.faults = [503, 0, 429]
    async with attempt(provider_at(tmp_path, port, **POOL)) as ctx:
        assert (await ctx.sandbox.run_shell("echo hi")).ok
    assert len(cluster.created) == 1


async def test_a_creation_whose_answer_was_lost_is_found_again(
    cluster: Cluster, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []
    api = cluster._api

    def answer(method: str, *rest: Any) -> Any:
        found = api(method, *rest)
        if method == "POST" and not lost:
            lost.append(1)
            return None
        return found

    monkeypatch.setattr(cluster, "_api", answer)
    async with attempt(provider_at(tmp_path, port, **POOL)) as ctx:
        assert (await ctx.sandbox.run_shell("echo hi")).ok
        assert lost
    assert len(cluster.created) == 1
    assert cluster.objects == {}


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        ({"denied": {("create", "sandboxclaims")}}, "lacks a right: sandboxclaims.extensions"),
        ({"installed": False}, "the cluster has no agent-sandbox v1beta1"),
        (
            {"condition": {"status": "False", "reason": "WarmPoolNotFound", "message": "no pool"}},
            "failed: WarmPoolNotFound",
        ),
        (
            {"condition": {"status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}},
            r"not ready after 1\.0 s: Unschedulable",
        ),
        ({"faults": [503] * 4}, "does not answer: .*503"),
    ],
)
async def test_what_fails_in_the_cluster_is_said_and_leaves_nothing(
    cluster: Cluster, port: int, tmp_path: Path, break_it: dict[str, Any], said: str
) -> None:
    vars(cluster).update(break_it)
    variables = POOL | {"SKILLFLEET_SANDBOX_START_SECONDS": "1"}
    async with attempt(provider_at(tmp_path, port, **variables)) as ctx:
        with pytest.raises(SandboxUnavailable, match=said):
            await ctx.sandbox.create(SandboxSpec("box"))
        assert await ctx.sandbox.list() == []
    assert cluster.objects == {}


@pytest.mark.parametrize(
    ("variables", "spec", "said"),
    [
        (POOL, SandboxSpec("box", image="other"), "SKILLFLEET_SANDBOX_IMAGES"),
        (POOL, SandboxSpec("box", memory_mib=64), "template of the warm pool"),
        (POOL, SandboxSpec("box", egress=("example.com",)), "egress"),
        (IMAGE, SandboxSpec("box", secrets=(HostSecret("key", "example.com"),)), "secrets"),
        (IMAGE, SandboxSpec("box", workspace=cast("WorkspaceView", object())), "workspace"),
    ],
)
async def test_a_spec_that_it_cannot_provide_is_refused(
    port: int, tmp_path: Path, variables: dict[str, str], spec: SandboxSpec, said: str
) -> None:
    async with attempt(provider_at(tmp_path, port, **variables)) as ctx:
        with pytest.raises(CapabilityUnavailableError, match=said):
            await ctx.sandbox.create(spec)


async def test_an_image_of_the_list_is_used(cluster: Cluster, port: int, tmp_path: Path) -> None:
    variables = POOL | {"SKILLFLEET_SANDBOX_IMAGES": "first:1, second:2"}
    async with attempt(provider_at(tmp_path, port, **variables)) as ctx:
        await ctx.sandbox.run_shell("true", "second:2")
        await ctx.sandbox.run_shell("true", DEFAULT_IMAGE)
    assert [each["kind"] for each in cluster.created] == ["Sandbox", "SandboxClaim"]
    (container,) = cluster.created[0]["spec"]["podTemplate"]["spec"]["containers"]
    assert container["image"] == "second:2"


async def test_sandboxes_of_lost_attempts_are_deleted_and_others_stay(
    cluster: Cluster, port: int, tmp_path: Path
) -> None:
    cluster.page = 1  # lists come in pages
    lost, kept = (provider_at(tmp_path, port, **POOL, **IMAGE) for _ in range(2))
    async with attempt(kept) as ctx, attempt(lost, "run-2") as other:
        kept_box = await ctx.sandbox.create(SandboxSpec("box"))
        for size in (512, 256):
            box = await other.sandbox.create(SandboxSpec(f"box-{size}", memory_mib=size))
        started = asyncio.Event()

        async def note(_: str, __: bytes) -> None:
            started.set()

        command = asyncio.ensure_future(box.shell("echo go; sleep 600", on_output=note))
        await started.wait()
        foreign = copy.deepcopy(cluster.created[0])
        foreign["metadata"] |= {"name": "foreign"}
        foreign["metadata"]["annotations"] |= {"skillfleet.fleet": "other", "skillfleet.run": "x"}
        cluster.objects["sandboxclaims/foreign"] = foreign

        async def holds(run_id: str, lease: str) -> bool:
            assert lease
            return run_id == ctx.task_id

        await kept.reap(holds)
        assert (await kept_box.shell("echo still")).stdout == "still\n"
        with pytest.raises(SandboxRuntimeError):
            await command
        assert len(cluster.objects) == 2
        assert "sandboxclaims/foreign" in cluster.objects


async def test_a_timeout_ends_the_processes_before_it_raises(
    cluster: Cluster, port: int, tmp_path: Path
) -> None:
    async with attempt(provider_at(tmp_path, port, **POOL)) as ctx:
        box = await ctx.sandbox.create(SandboxSpec("box"))
        with pytest.raises(SandboxRuntimeError, match=r"longer than 0\.5 s"):
            await box.shell("setsid sleep 600 & sleep 600", timeout=0.5)
        (pod,) = cluster.pods.values()
        assert not [each for each in pod.commands() if each.startswith(b"sleep")]


async def test_a_start_reports_the_kind_and_missing_rights(
    cluster: Cluster, port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def holds(_: str, __: str) -> bool:
        return False

    provider = provider_at(tmp_path, port, **POOL)
    await provider.reap(holds)
    assert "sandboxes: kubernetes. Isolated: pods of the namespace agents" in caplog.text
    cluster.denied = {("delete", "sandboxclaims"), ("list", "sandboxes")}
    with pytest.raises(SandboxUnavailable) as failed:
        await provider.report()
    missing = "may not delete sandboxclaims.extensions.agents.x-k8s.io in the namespace agents"
    assert missing in str(failed.value)
    await provider.aclose()


async def test_outside_of_a_pod_it_says_so(port: int, tmp_path: Path) -> None:
    provider = provider_at(tmp_path, port, **POOL)
    (tmp_path / "account" / "namespace").unlink()
    with pytest.raises(SandboxUnavailable, match="has no service account of Kubernetes"):
        await provider.report()
    await provider.aclose()


def test_it_needs_a_pool_or_an_image(port: int, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="SKILLFLEET_SANDBOX_WARM_POOL or"):
        provider_at(tmp_path, port)


@pytest.mark.parametrize(
    ("forged", "said"),
    [
        (b"x" * (5 << 20), "more than"),
        (b'{"stdout": "{}", "stderr": "", "exit_code": 0}', "reply is invalid"),
    ],
    ids=["long", "empty"],
)
async def test_a_forged_answer_of_the_runtime_is_an_error_and_ends_the_sandbox(
    cluster: Cluster, port: int, tmp_path: Path, forged: bytes, said: str
) -> None:
    async with attempt(provider_at(tmp_path, port, **POOL)) as ctx:
        box = await ctx.sandbox.create(SandboxSpec("box"))
        cluster.runtime_answer = lambda _, __: forged
        with pytest.raises(SandboxRuntimeError, match=said):
            await box.shell("true")
        assert cluster.objects == {}


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"pieces": [], "status": 1e9},
        {"pieces": [], "status": 256},
        {"pieces": [], "status": True},
        {"pieces": [[2, "eA=="]], "status": 0},
        {"pieces": [[-1, "eA=="]], "status": 0},
        {"pieces": [[0]], "status": 0},
        {"pieces": [[0, 5]], "status": 0},
        {"pieces": "x", "status": 0},
        {"pieces": 5, "status": None},
    ],
)
def test_a_forged_reply_of_the_supervisor_is_an_error(reply: dict[str, Any]) -> None:
    with pytest.raises(SandboxRuntimeError, match="reply is invalid"):
        content_of(reply)


async def test_a_runtime_that_is_gone_is_an_error(
    cluster: Cluster, port: int, tmp_path: Path
) -> None:
    async with attempt(provider_at(tmp_path, port, **POOL)) as ctx:
        box = await ctx.sandbox.create(SandboxSpec("box"))
        for pod in list(cluster.pods.values()):
            cluster.pods.pop(pod.name).end()
        with pytest.raises(SandboxRuntimeError, match="cannot be reached: 502"):
            await box.shell("true")
    assert cluster.objects == {}
